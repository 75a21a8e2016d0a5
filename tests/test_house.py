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

from tests.places import ROOT
from touchstone import errors, settings
from touchstone.runtime import places

PRODUCT = ROOT / "touchstone"

# Highest first: a module may import only from rows below its own. Names in one row don't know each other.
LAYERS = (
    ("flows",),
    ("tasks",),
    ("touchstone.cli.main",),
    ("touchstone.cli.models", "touchstone.cli.release"),
    ("touchstone.operations.trace", "touchstone.release.publishing"),
    ("touchstone.pipeline",),
    ("touchstone.release", "touchstone.operations.verify"),
    ("touchstone.serving",),
    ("touchstone.model.pyfunc",),
    ("touchstone.registry", "touchstone.gate"),
    ("touchstone.gate.page", "touchstone.data.page", "touchstone.evaluation.cross_fitting"),
    ("touchstone.pages",),
    ("touchstone.gate.checks",),
    ("touchstone.evaluation.benchmarks",),
    ("touchstone.evaluation.metrics",),
    ("touchstone.evaluation.baselines", "touchstone.evaluation.pictures", "touchstone.model.adopting"),
    ("touchstone.model.sealing",),
    ("touchstone.model.scoring",),
    ("touchstone.training",),
    ("touchstone.model.base",),
    ("touchstone.model.layout",),
    ("touchstone.model.attention",),
    ("touchstone.model.network",),
    ("touchstone.model.encoder",),
    ("touchstone.model.templating",),
    ("touchstone.data.audit",),
    ("touchstone.statistics",),
    ("touchstone.data.validation", "touchstone.data.splits", "touchstone.data.sources"),
    ("touchstone.data.personal",),
    ("touchstone.data.neighbours", "touchstone.data.hygiene", "touchstone.model.card"),
    ("touchstone.groups",),
    ("touchstone.runtime.ledger",),
    ("touchstone.settings",),
    ("touchstone.runtime.stage", "touchstone.runtime.parallel", "touchstone.runtime.places"),
    ("touchstone.runtime.files",),
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
                found.add(whole if _path(whole) is not None else base)
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
        ("mlflow", {"touchstone.registry", "touchstone.model.pyfunc"}),
        ("great_expectations", {"touchstone.data.validation"}),
        ("trl", {"touchstone.training"}),
        ("fastapi", {"touchstone.serving"}),
    ],
)
def test_one_room_knows_each_tool(package: str, rooms: set[str]) -> None:
    users = {_room(_name(path)) for path in _modules() if any(m.split(".")[0] == package for m in _imports(path))}
    assert users <= rooms


def test_what_tests_share_lies_in_no_test_module() -> None:
    """A test module can be renamed or moved without another knowing: what they share lies in tests/worlds."""
    for path in (path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")):
        shared = {module for module in _imports(path) if re.match(r"tests(\.\w+)*\.test_", module)}
        assert not shared, f"{path.relative_to(ROOT)} imports {sorted(shared)}; move what it needs to tests/worlds"


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
    if path.name == "__init__.py" and path.parent != PRODUCT:  # the product's own holds a version and no imports
        for other in path.parent.glob("*.py"):
            _closure(_name(other), seen)
    return seen


# Values enter a stage by params.yaml; errors, progress bars and folders have no numbers: their edits rerun nothing.
NUMBERLESS = {
    "touchstone",
    "touchstone.errors",
    "touchstone.runtime.stage",
    "touchstone.runtime.parallel",
    "touchstone.runtime.places",
}


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
    code = f"import sys, touchstone.cli.main; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_product_is_what_is_installed() -> None:
    spec = importlib.util.find_spec("touchstone")
    assert spec is not None
    assert spec.origin == str(PRODUCT / "__init__.py")
    assert places.PACKAGE == PRODUCT


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    named = set(re.findall(r"^\s*([\w.]+/?) ", tree, re.MULTILINE))
    entries = {p.name + ("/" if p.is_dir() else "") for p in PRODUCT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert entries - named <= {"__init__.py", "__pycache__/"}
