"""The house rules that a machine can check: layers, the folder mlflow/, the graph, the configurations."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from touchstone import errors, settings

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ROOT / "touchstone"

# Highest first: a module may import only from rows below its own. Names in one row don't know each other.
LAYERS = (
    ("flows",),
    ("tasks",),
    ("touchstone.cli",),
    ("touchstone.cli_models", "touchstone.cli_release"),
    ("touchstone.trace", "touchstone.publishing"),
    ("touchstone.pipeline",),
    ("touchstone.release", "touchstone.verification"),
    ("touchstone.serving",),
    ("touchstone.pyfunc",),
    ("touchstone.registry", "touchstone.judging"),
    ("touchstone.decision_page", "touchstone.data_page", "touchstone.cross_fitting"),
    ("touchstone.pages",),
    ("touchstone.gates",),
    ("touchstone.reward_benchmarks",),
    ("touchstone.evaluation",),
    ("touchstone.baselines", "touchstone.plots", "touchstone.adopting"),
    ("touchstone.sealing",),
    ("touchstone.scoring",),
    ("touchstone.training",),
    ("touchstone.base",),
    ("touchstone.layout",),
    ("touchstone.attention",),
    ("touchstone.model",),
    ("touchstone.encoder",),
    ("touchstone.templating",),
    ("touchstone.audit",),
    ("touchstone.statistics",),
    ("touchstone.validation", "touchstone.splits", "touchstone.sources"),
    ("touchstone.personal",),
    ("touchstone.neighbours", "touchstone.hygiene", "touchstone.card"),
    ("touchstone.groups",),
    ("touchstone.ledger",),
    ("touchstone.settings",),
    ("touchstone.stage", "touchstone.parallel"),
    ("touchstone.files",),
    ("touchstone.errors",),
    ("touchstone",),
)
ROOMS = {room: level for level, row in enumerate(LAYERS) for room in row}


def _modules() -> list[Path]:
    return sorted(path for folder in ("flows", "tasks", "touchstone") for path in (ROOT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """The longest room that a module lies in."""
    return max((room for room in ROOMS if module == room or module.startswith(room + ".")), key=len)


def _imports(path: Path) -> set[str]:
    """Every module of ours and every package that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; say the whole name"
            base = str(node.module)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                is_module = base.split(".")[0] in ("touchstone", "tasks", "flows") and _path(whole) is not None
                found.add(whole if is_module else base)
    return found


def _path(module: str) -> Path | None:
    stem = ROOT.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_point_downwards(path: Path) -> None:
    own = _room(_name(path))
    if own == "touchstone" and _name(path) != "touchstone":
        pytest.fail(f"{_name(path)} stands in no layer; add it to LAYERS")
    for module in _imports(path):
        if module.split(".")[0] not in ("touchstone", "tasks", "flows"):
            continue
        room = _room(module)
        assert room == own or ROOMS[room] > ROOMS[own], (
            f"{_name(path)} imports {module}, which stands above or beside it"
        )


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("prefect", {"flows", "tasks"}),
        ("mlflow", {"touchstone.registry", "touchstone.pyfunc"}),
        ("great_expectations", {"touchstone.validation"}),
        ("trl", {"touchstone.training"}),
        ("fastapi", {"touchstone.serving"}),
    ],
)
def test_one_room_knows_each_tool(package: str, rooms: set[str]) -> None:
    users = {_room(_name(path)) for path in _modules() if any(m.split(".")[0] == package for m in _imports(path))}
    assert users <= rooms


def test_the_folder_mlflow_holds_no_python_and_shadows_nothing() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))
    command = [sys.executable, "-c", "import mlflow; print(mlflow.__version__, mlflow.__file__)"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert answer[0][0].isdigit()
    assert not Path(answer[1]).is_relative_to(ROOT / "mlflow")


def _closure(module: str, seen: set[str] | None = None) -> set[str]:
    """Our modules that importing `module` may read, by name."""
    seen = set() if seen is None else seen
    path = _path(module)
    if path is None or module in seen:
        return seen
    seen.add(module)
    for name in _imports(path):
        if name.startswith("touchstone"):
            _closure(name, seen)
    if path.name == "__init__.py":
        for other in path.parent.glob("*.py"):
            _closure(_name(other), seen)
    return seen


# Values enter a stage by params.yaml, errors and progress bars have no numbers: their edits rerun nothing.
NUMBERLESS = {"touchstone", "touchstone.errors", "touchstone.stage", "touchstone.parallel"}


def test_each_stage_depends_on_exactly_the_code_that_it_runs() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        module = re.search(r"-m (touchstone\.\S+)", stage["cmd"]).group(1)
        numbers = {m for m in _closure(module) - NUMBERLESS if not m.startswith("touchstone.settings")}
        needed = {str(_path(m).relative_to(ROOT)) for m in numbers}
        declared = {dep for dep in stage["deps"] if dep.startswith("touchstone/")}
        covered = {file for file in needed if file in declared or any(file.startswith(d + "/") for d in declared)}
        assert needed == covered, f"stage {name} runs code that it doesn't depend on: {sorted(needed - covered)}"
        idle = {d for d in declared if not any(f == d or f.startswith(d + "/") for f in needed)}
        assert not idle, f"stage {name} depends on code that it doesn't run: {sorted(idle)}"


def test_committed_parameters_are_the_composed_default() -> None:
    assert settings.load(ROOT / "params.yaml") == settings.compose([], ROOT / "configs")
    assert (ROOT / "params.yaml").read_text() == settings.dump(settings.load(ROOT / "params.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(line for line in head if line != "# @package _global_")
    assert re.search(r"#   (make|touchstone|accelerate|dvc) ", text), f"{path}: the head names no command"


def test_the_error_tree_is_drawn_whole() -> None:
    drawn = set(re.findall(r"(\w+Error)\b", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert drawn == defined


def test_light_modules_stay_light() -> None:
    """The command line answers `--help` without loading torch."""
    heavy = {"torch", "mlflow", "prefect", "pandas", "matplotlib"}
    code = f"import sys, touchstone.cli; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_product_is_what_is_installed() -> None:
    spec = importlib.util.find_spec("touchstone")
    assert spec is not None
    assert spec.origin == str(PRODUCT / "__init__.py")


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    named = set(re.findall(r"^\s*([\w.]+/?) ", tree, re.MULTILINE))
    entries = {p.name + ("/" if p.is_dir() else "") for p in PRODUCT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert entries - named <= {"__init__.py", "__pycache__/"}


def test_the_lock_holds_every_requirement_with_digests() -> None:
    """`scripts/setup.sh` finds torch (no digest) and uv (installs the rest) in the lock by name."""
    required = re.findall(r"^([\w.-]+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    entries = re.split(r"^(?=\w)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    locked = {entry.split("==")[0]: "--hash=sha256:" in entry for entry in entries}
    assert {name.lower().replace("_", "-") for name in required} <= set(locked)
    assert [name for name, has_digest in locked.items() if not has_digest] == ["torch"]
    assert "uv" in locked
