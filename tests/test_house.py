"""The house rules that a machine can check: layers, the folder mlflow/, the graph, the configurations."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from functools import cache
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
    ("touchstone.cli",),
    ("touchstone.operations",),
    ("touchstone.pipeline",),
    ("touchstone.release",),
    ("touchstone.gate",),
    ("touchstone.evaluation", "touchstone.serving"),
    ("touchstone.data.page",),  # counts tokens with the model's tokenizer; no other part of data knows the model
    ("touchstone.data", "touchstone.training", "touchstone.registry", "touchstone.client", "touchstone.pyfunc"),
    ("touchstone.model",),
    ("touchstone.refusals",),
    ("touchstone.groups",),
    ("touchstone.pages",),
    ("touchstone.settings", "touchstone.statistics"),
    ("touchstone.runtime",),
    ("touchstone.errors",),
    ("touchstone",),
)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ROOMS = {room: level for level, row in enumerate(LAYERS) for room in row}


def _modules() -> list[Path]:
    return sorted(path for folder in ("flows", "tasks", "touchstone") for path in (ROOT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """The longest room that a module lies in."""
    return max((room for room in ROOMS if module == room or module.startswith(room + ".")), key=len)


@cache
def _imports(path: Path) -> frozenset[str]:
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
    return frozenset(found)


def _top_imports(path: Path) -> set[str]:
    """Every module of ours that a file imports as soon as it is imported itself."""
    nodes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    names = [(str(node.module), f"{node.module}.{alias.name}") for node in nodes for alias in node.names]
    return {whole if _path(whole) is not None else base for base, whole in names}


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
        ("mlflow", {"touchstone.registry"}),
        ("great_expectations", {"touchstone.data.validation"}),
        ("trl", {"touchstone.training"}),
        ("fastapi", {"touchstone.serving"}),
        ("typer", {"touchstone.cli"}),
    ],
)
def test_one_room_knows_each_tool(package: str, rooms: set[str]) -> None:
    users = [_name(path) for path in _modules() if any(name.split(".")[0] == package for name in _imports(path))]
    assert [name for name in users if not any(name == room or name.startswith(room + ".") for room in rooms)] == []


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


def _closure(module: str, seen: set[Path] | None = None) -> set[Path]:
    """Our files that Python reads when it imports `module`: its own, those of its parents, and what they import."""
    seen = set() if seen is None else seen
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        path = _path(".".join(parts[:end]))
        if path is None or path in seen:
            continue
        seen.add(path)
        for name in _imports(path):
            if name.startswith("touchstone"):
                _closure(name, seen)
    return seen


# Values enter a stage by params.yaml; errors, places and what shows progress have no numbers: an edit reruns nothing.
NUMBERLESS = (
    "__init__.py",
    "errors.py",
    "runtime/installed.py",
    "runtime/parallel.py",
    "runtime/places.py",
    "runtime/progress.py",
    "runtime/stage.py",
    "settings/",
    "training/live_view.py",
)


def _has_code(path: Path) -> bool:
    """Whether a file holds more than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def stage_files(command: str) -> set[str]:
    """The files of ours that a stage's numbers come from, relative to the root."""
    module = re.search(r"-m (touchstone\.\S+)", command)
    assert module is not None, command
    files = _closure(module[1]) | _closure(f"{module[1]}.__main__")
    code = {path for path in files if _has_code(path)}
    # Templates and styles lie beside the modules that fill them.
    beside = {other for path in code for other in path.parent.iterdir() if other.suffix in (".jinja", ".css", ".html")}
    names = {str(path.relative_to(ROOT)) for path in code | beside}
    return {name for name in names if not name.removeprefix("touchstone/").startswith(NUMBERLESS)}


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_depends_on_exactly_the_files_that_it_runs(name: str) -> None:
    declared = {dep for dep in STAGES[name]["deps"] if dep.startswith("touchstone/")}
    needed = stage_files(STAGES[name]["cmd"])
    assert not needed - declared, f"add to the deps of stage {name} in dvc.yaml: {sorted(needed - declared)}"
    assert not declared - needed, f"stage {name} doesn't run these; take them out: {sorted(declared - needed)}"


LIGHT = ("cli", "data", "evaluation", "gate", "model", "operations", "pipeline", "runtime", "training")


@pytest.mark.parametrize("wing", LIGHT)
def test_a_wing_that_holds_heavy_modules_imports_none_by_itself(wing: str) -> None:
    assert not _has_code(PRODUCT / wing / "__init__.py"), f"touchstone/{wing}/__init__.py is a docstring only"


def _rooms_used(room: str) -> set[str]:
    modules = [path for path in _modules() if _room(_name(path)) == room]
    names = {
        name for path in modules for name in _imports(path) if name.split(".")[0] in ("touchstone", "tasks", "flows")
    }
    return {_room(name) for name in names} - {room}


def test_the_house_stays_small() -> None:
    arrows = [(room, used) for room in ROOMS for used in _rooms_used(room)]
    assert len(ROOMS) <= 24, "a new wing needs a reason in docs/decisions"
    assert len(arrows) <= 122, f"{len(arrows)} arrows between rooms; cut one before another is added"


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports at the top of files; one inside a function is there to break a circle, or to be quick."""
    ours = {_name(path): path for path in _modules()}
    waiting = {
        name: {other for other in _top_imports(path) if other in ours and other != name} for name, path in ours.items()
    }
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert not waiting, f"modules that import one another, or what does: {sorted(waiting)}"


def test_only_the_pipeline_starts_dvc_and_git() -> None:
    """They are programs, not modules: whoever starts one has its name as a word of a command."""
    users = {
        _room(_name(path))
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.List)
        for word in node.elts
        if isinstance(word, ast.Constant) and word.value in ("git", "dvc")
    }
    assert users == {"touchstone.pipeline"}


PRONOUNS = {"aside", "it", "kept", "one", "other", "own", "said", "taken", "them", "told", "whole"}


@pytest.mark.parametrize("path", list(_modules()), ids=_name)
def test_variables_are_named_by_nouns(path: Path) -> None:
    """A pronoun points at a sentence before it, and code has none. (`found` may name the result of a search.)"""
    names = [
        f"{node.id}, line {node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in PRONOUNS
    ]
    assert not names, f"{path.relative_to(ROOT)}: name these after what they hold: {names}"


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


def test_the_lock_holds_every_requirement_with_digests() -> None:
    """`scripts/setup.sh` finds torch (no digest) and uv (installs the rest) in the lock by name."""
    required = re.findall(r"^([\w.-]+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    entries = re.split(r"^(?=\w)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    locked = {entry.split("==")[0]: "--hash=sha256:" in entry for entry in entries}
    assert {name.lower().replace("_", "-") for name in required} <= set(locked)
    assert [name for name, has_digest in locked.items() if not has_digest] == ["torch"]
    assert "uv" in locked
