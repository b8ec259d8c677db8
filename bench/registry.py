"""A plug-in is found by its file name: `lsun_bedroom.py` is `lsun-bedroom`. No decorators and no list to extend.

Nothing is imported until it is asked for by name, so listing names costs no torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from bench.errors import UsageError

Plugin = TypeVar("Plugin")


class Registry(Generic[Plugin]):
    """The plug-ins of one kind: every public file of a package, each with one constant.

    Args:
        kind: what a message calls it, for example `model`.
        package: dotted name of the package whose files are the plug-ins.
        constant: the name every file must define, for example `SPEC`.
        plugin_type: the class the constant must be an instance of.
    """

    def __init__(self, kind: str, package: str, constant: str, plugin_type: type[Plugin]) -> None:
        self.kind = kind
        self.package = package
        self.constant = constant
        self.plugin_type = plugin_type

    def names(self) -> list[str]:
        """The names a user may type, sorted."""
        return sorted(path.stem.replace("_", "-") for path in self._folder().glob("*.py") if path.stem[0] != "_")

    def file(self, name: str) -> Path:
        """The file behind a name.

        Raises:
            UsageError: no such plug-in; the message suggests the nearest name.
        """
        if name not in self.names():
            raise UsageError(f"Unknown {self.kind} '{name}'. {suggest(name, self.names())}")
        return self._folder() / f"{name.replace('-', '_')}.py"

    def load(self, name: str) -> Plugin:
        """The constant of that plug-in. Raises UsageError where the name or the constant is unknown."""
        path = self.file(name)
        return self._constant_of(importlib.import_module(f"{self.package}.{path.stem}"), path)

    def load_file(self, path: Path) -> Plugin:
        """The constant of a file that lies outside the project.

        Raises:
            UsageError: the file is not there, cannot be imported, or lacks the constant.
        """
        if not path.is_file():
            raise UsageError(f"There is no {self.kind} file '{path}'.")
        module_spec = importlib.util.spec_from_file_location(f"{self.package}_outside_{path.stem}", path)
        if module_spec is None or module_spec.loader is None:
            raise UsageError(f"The {self.kind} file '{path}' is not a Python file.")
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[module_spec.name] = module  # dataclasses look their module up here
        try:
            module_spec.loader.exec_module(module)
        except (ImportError, SyntaxError) as error:
            raise UsageError(f"The {self.kind} file '{path}' cannot be imported: {error}") from error
        return self._constant_of(module, path)

    def _folder(self) -> Path:
        package_file = importlib.import_module(self.package).__file__
        assert package_file is not None, f"{self.package} is a namespace package"
        return Path(package_file).parent

    def _constant_of(self, module: ModuleType, path: Path) -> Plugin:
        plugin = getattr(module, self.constant, None)
        if not isinstance(plugin, self.plugin_type):
            raise UsageError(
                f"The {self.kind} file '{path}' defines no {self.constant} of type {self.plugin_type.__name__}; "
                "CONTRIBUTING.md shows the recipe."
            )
        return plugin


def suggest(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'ladagan'? Known: …` for a name that is not known."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(known)}."
