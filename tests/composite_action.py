"""Runs the scripts of a composite GitHub action in order, as the runner does, on this machine and without a network.

Why it exists: a workflow cannot be run here, its scripts can. What is imitated was read in the runner's source
(https://github.com/actions/runner, commit 258d6c8): `shell: bash` is `bash --noprofile --norc -e -o pipefail FILE`
(ScriptHandlerHelpers.cs); outputs are `name=value` lines of the file GITHUB_OUTPUT; after a failed step the others are
left out; the action's outputs are evaluated all the same (CompositeActionHandler.cs). Steps that `uses:` another action
are not run but reported with their inputs. Whatever this file does not know it refuses: an expression that is silently
empty here and not on GitHub would make a test worthless.
"""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_PATH = re.compile(r"[a-z_]+(\.[\w-]+)+")
_COMPARISON = re.compile(r"(\S+) (==|!=) '([^']*)'")
_STEP_KEYS = {"name", "id", "if", "run", "shell", "env", "uses", "with", "continue-on-error"}
_GITHUB = {"event", "event_name", "token"}  # what an action may ask of `github`; `event` may lack anything


class UnknownSyntaxError(Exception):
    """Something that GitHub may understand and this file does not."""


@dataclass
class Ran:
    """What became of an action.

    Attributes:
        exit_code: of the step that failed, else 0.
        outputs: of the action.
        names: steps whose script ran; used: action → its inputs, of the steps that were left to others.
        log, summary: what the scripts printed, and what they added to the job's summary.
    """

    exit_code: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""
    summary: str = ""


@dataclass
class Expressions:
    """The contexts that an expression may look into."""

    inputs: dict[str, str]
    github: dict[str, Any]
    steps: dict[str, dict[str, str]]

    def text(self, value: Any) -> str:
        """A value of `env:` or `with:` with its expressions replaced, once: what they give is not read again."""
        return _EXPRESSION.sub(lambda found: self.value(found[1]), as_text(value))

    def is_true(self, condition: str) -> bool:
        """Comparisons with a word, joined by `&&`."""
        return all(self._compared(part) for part in condition.split(" && "))

    def _compared(self, text: str) -> bool:
        found = _COMPARISON.fullmatch(text)
        if found is None:
            raise UnknownSyntaxError(f"if: {text}")
        path, sign, word = found.groups()
        return (self.value(path) == word) is (sign == "==")

    def value(self, path: str) -> str:
        """`inputs.x`, `steps.x.outputs.y`, `github.x`."""
        context, *names = path.split(".") if _PATH.fullmatch(path) else [""]
        if context == "inputs" and len(names) == 1 and names[0] in self.inputs:
            return self.inputs[names[0]]
        if context == "steps" and len(names) == 3 and names[0] in self.steps and names[1] == "outputs":
            return self.steps[names[0]].get(names[2], "")
        if context == "github" and names[0] in _GITHUB:
            found: Any = self.github
            for name in names:
                found = found.get(name, {})
            if not (found and isinstance(found, dict)):
                return str(found or "")
        raise UnknownSyntaxError(f"${{{{ {path} }}}}")


def as_text(value: Any) -> str:
    """YAML's true is 'true'."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_yaml(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text())


def run_action(
    path: Path,
    *,
    inputs: dict[str, Any],
    github: dict[str, Any],
    workspace: Path,
    scratch: Path,
    environment: dict[str, str],
) -> Ran:
    """Run an action's steps in a checkout.

    Args:
        path: the folder of `action.yml`.
        inputs: as under `with:`, values without expressions; one that the action does not declare is refused.
        github: event, event_name and token of that context.
        scratch: an empty folder for the runner's own files; the summary and the outputs are read from there.
        environment: over this process's own.
    """
    action = load_yaml(path / "action.yml")
    if unknown := set(inputs) - set(action["inputs"]):
        raise UnknownSyntaxError(f"with: {sorted(unknown)}")
    known = Expressions(inputs={}, github=github, steps={})
    defaults = {name: known.text(each["default"]) for name, each in action["inputs"].items()}
    known.inputs = defaults | {name: as_text(value) for name, value in inputs.items()}
    (scratch / "temp").mkdir(parents=True)
    environment = {
        **os.environ,
        "GITHUB_ACTION_PATH": str(path),
        "GITHUB_EVENT_NAME": github["event_name"],
        "RUNNER_TEMP": str(scratch / "temp"),
        **environment,
    }
    ran = Ran()
    for index, step in enumerate(action["runs"]["steps"]):
        _run_step(step, known, ran, workspace, scratch / str(index), environment)
    ran.outputs = {name: known.text(each["value"]) for name, each in action["outputs"].items()}
    return ran


def _run_step(
    step: dict[str, Any], known: Expressions, ran: Ran, workspace: Path, files: Path, environment: dict[str, str]
) -> None:
    if not set(step) <= _STEP_KEYS or ("run" in step and step["shell"] != "bash"):
        raise UnknownSyntaxError(f"step: {sorted(step)}, shell {step.get('shell')}")
    outputs = known.steps.setdefault(step["id"], {}) if "id" in step else {}
    if ran.exit_code or ("if" in step and not known.is_true(step["if"])):
        return
    if "uses" in step:
        ran.used[step["uses"].split("@")[0]] = {name: known.text(value) for name, value in step["with"].items()}
        return
    files.mkdir()
    script, output, summary = files / "script.sh", files / "output", files / "summary"
    script.write_text(step["run"])
    for path in (output, summary):
        path.touch()
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=workspace,
        env={**environment, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        | {name: known.text(value) for name, value in step.get("env", {}).items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    ran.names.append(step["name"])
    ran.exit_code, ran.log, ran.summary = done.returncode, ran.log + done.stdout, ran.summary + summary.read_text()
    for line in output.read_text().splitlines():
        name, sign, value = line.partition("=")
        if not sign or "<<" in name:
            raise UnknownSyntaxError(f"GITHUB_OUTPUT: {line}")
        outputs[name] = value


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checked_out(server: Path, ref: str, folder: Path) -> Path:
    """A ref as actions/checkout leaves it by default: that commit alone, detached."""
    git(server, "init", "--quiet", str(folder))
    git(folder, "remote", "add", "origin", f"file://{server}")
    git(folder, "fetch", "--quiet", "--depth=1", "origin", f"+{ref}:refs/remotes/{ref}")
    git(folder, "checkout", "--quiet", "--detach", f"refs/remotes/{ref}")
    return folder
