"""The house rules of design.md that a program can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("bench/**/*.py"), *ROOT.glob("models/*.py")])

# A module may import from its own package and from lower floors only.
FLOORS = {
    "bench.cli": 6,
    "bench.preparation": 4,
    "bench.evaluation": 4,
    "bench.sampling": 4,
    "bench.released": 4,
    "bench.attention_maps": 4,
    "bench.paper": 5,
    "bench.__main__": 6,
    "bench.listing": 5,
    "bench.runner": 5,
    "bench.gate": 5,
    "bench.report": 5,
    "bench.notation": 2,
    "bench.directions": 1,
    "bench.phases": 4,
    "bench.compare": 4,
    "bench.audit": 4,
    "bench.catalog": 3,
    "bench.calibration": 2,
    "bench.training": 2,
    "bench.meters": 2,
    "bench.metrics": 2,
    "bench.datasets": 2,
    "bench.store": 2,
    "bench.machine": 2,
    "bench.stats": 2,
    "bench.records": 1,
    "bench.registry": 1,
    "bench.quantities": 0,
    "bench.errors": 0,
    "bench.units": 0,
    "bench": 0,
    "models": 0,
}
# Contracts that a floor shares: `bench.metrics` speaks of data sets, `bench.training` and `bench.phases` of both.
SAME_FLOOR = {
    ("bench.metrics", "bench.datasets"),
    ("bench.units", "bench.errors"),
    ("bench.training", "bench.datasets"),
    ("bench.training", "bench.store"),
    ("bench.cli", "bench.__main__"),
    ("bench.sampling", "bench.attention_maps"),
    ("bench.audit", "bench.phases"),
    ("bench.evaluation", "bench.phases"),
    ("bench.evaluation", "bench.sampling"),
    ("bench.__main__", "bench.cli"),
    ("bench.metrics", "bench.stats"),
    ("bench.metrics", "bench.store"),
    ("bench.calibration", "bench.machine"),
    ("bench.calibration", "bench.stats"),
    ("bench.calibration", "bench.store"),
}


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def home(module):
    """The longest entry of FLOORS that the module lies in; all commands, `cli_*.py`, are one."""
    parts = re.sub(r"^bench\.cli_\w+", "bench.cli", module).split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in FLOORS:
            return ".".join(parts[:end])
    return None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_imports_point_down_only(path):
    here = home(dotted(path))
    assert here is not None, f"{path} has no floor in FLOORS"
    if here == "bench":
        return  # __init__ names the public API, looked up when it is first used
    for name, _ in imports_of(path):
        there = home(name)
        if there in {None, here} or name == "bench.__version__" or (here, there) in SAME_FLOOR:
            continue
        if FLOORS[here] == 5 and there == "bench" and name.startswith("bench."):
            continue
        assert FLOORS[there] < FLOORS[here], f"{dotted(path)} (floor {FLOORS[here]}) imports {name} ({FLOORS[there]})"


def test_models_never_import_bench():
    for path in ROOT.glob("models/*.py"):
        assert not any(name.split(".")[0] == "bench" for name, _ in imports_of(path)), path


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_imports_stand_at_the_top_except_in_the_command_line(path):
    if path.name.startswith("cli"):
        return
    if dotted(path) == "bench.training.log":  # the adapter of an optional package, TensorBoard
        return
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [node for each in functions for node in ast.walk(each) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not inside, f"{path}: import inside a function at line {inside[0].lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_sizes_stay_within_the_design(path):
    text = path.read_text()
    limit = 450 if path.parent.name == "models" else 300
    assert len(text.splitlines()) <= limit, f"{path} is longer than {limit} lines"
    main_path = {"runner.py": {"run"}, "cli.py": {"run"}}.get(path.name, set())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            allowed = 100 if node.name in main_path else 50
            length = node.end_lineno - node.lineno + 1
            assert length <= allowed, f"{path}: {node.name} has {length} lines, {allowed} allowed"


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_every_file_opens_with_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and len(docstring) >= 20


def test_exceptions_are_caught_broadly_in_three_named_places_only():
    broad = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            ):
                broad.append(dotted(path))
    # runner: a failed phase is a record; cli: the option parser's errors; store: clean up and raise again
    assert sorted(broad) == ["bench.cli", "bench.runner", "bench.store"]


def test_nothing_left_open_in_the_code():
    pattern = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert [str(path) for path in SOURCES if pattern.search(path.read_text())] == []


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "{'torch', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'numpy'}"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys, bench.cli\n"
        f"code = bench.cli.main({arguments!r})\n"
        f"print('LOADED', sorted({HEAVY} & set(sys.modules)), code)"
    )
    assert run_python(code).strip().splitlines()[-1] == "LOADED [] 0"


def test_help_answers_faster_than_python_imports_torch():
    """The rule is half a second; a ratio stands for it, so that a loaded machine does not fail it."""
    code = (
        "import subprocess, sys, time\n"
        "def best(arguments):\n"
        "    times = []\n"
        "    for _ in range(3):\n"
        "        started = time.perf_counter()\n"
        "        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)\n"
        "        times.append(time.perf_counter() - started)\n"
        "    return min(times)\n"
        "print(best(['-m', 'bench', '--help']) / best(['-c', 'import torch']))"
    )
    assert float(run_python(code)) < 0.5


def test_the_report_loads_no_torch():
    assert (
        run_python(
            "import sys, bench.report.write, bench.report.text, bench.store; print('torch' in sys.modules)"
        ).strip()
        == "False"
    )


def test_importing_changes_no_global_state():
    code = (
        "import logging, random, warnings, torch, numpy\n"
        "before = (list(warnings.filters), torch.random.get_rng_state().sum().item(), random.getstate()[1][:3],\n"
        "          logging.root.level, torch.backends.cuda.matmul.allow_tf32, torch.get_num_threads())\n"
        "import bench.runner, bench.listing\n"
        "from bench.catalog import MODELS\n"
        "[MODELS.load(name) for name in MODELS.names()]\n"
        "after = (list(warnings.filters), torch.random.get_rng_state().sum().item(), random.getstate()[1][:3],\n"
        "         logging.root.level, torch.backends.cuda.matmul.allow_tf32, torch.get_num_threads())\n"
        "print(before[1:] == after[1:])"
    )
    assert run_python(code).strip() == "True"


def test_the_options_of_run_are_the_agreed_ones():
    help_text = run_python("import bench.cli; bench.cli.main(['run', '--help'])")
    assert set(re.findall(r"--[a-z][a-z-]+", help_text.split("Options:")[1])) == {
        "--model",
        "--size",
        "--dataset",
        "--resolution",
        "--batch-size",
        "--precision",
        "--device",
        "--seed",
        "--train-for",
        "--eval-every",
        "--until",
        "--weights",
        "--compile",
        "--capture",
        "--channels-last",
        "--num-accumulation-steps",
        "--checkpoint-every",
        "--metrics",
        "--workers",
        "--worker-start",
        "--images-in",
        "--log",
        "--preset",
        "--phases",
        "--no-data",
        "--tdp-w",
        "--attention",
        "--discriminator",
        "--grid",
        "--grid-g-per-kwh",
        "--grid-source",
        "--grid-year",
        "--pue",
        "--results",
        "--fresh",
        "--dry-run",
        "--json",
        "--help",
    }


def test_no_committed_file_names_an_index_host_or_this_machine():
    pattern = re.compile(
        r"(pypi\.org|files\.pythonhosted|registry\.npmjs|--index-url|--extra-index-url|file:///|/root/)"
    )
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    texts = [
        ROOT / name for name in tracked if Path(name).suffix in {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ""}
    ]
    hits = [
        str(path) for path in texts if path.is_file() and path != Path(__file__) and pattern.search(path.read_text())
    ]
    assert hits == []
