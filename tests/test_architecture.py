"""The shape of the package: direction of imports, and one name per stage everywhere."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from unival.stages import STAGES, module

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/unival"
LAYERS = (
    ("errors", "compat", "sample"),
    (
        "limits",
        "media_format",
        "files",
        "folders",
        "registry",
        "record",
        "config",
        "vocab",
        "vqa_answers",
        "device",
        "weights",
    ),
    ("data", "model", "metrics", "merging"),
    ("tasks", "engine"),
    ("code", "provenance", "scratch", "tracking"),
    ("study",),
    ("stages", "report", "serve"),
    ("compose", "explain", "lineage", "bundle", "sweep", "comparison"),
    ("commands",),
    ("cli", "__main__"),
)
"""A layer imports the layers before it, and within itself except for the siblings of the third."""
ROOMS = (
    ("data/media", "data/sources", "data/benchmarks"),
    ("engine/machine", "engine/batches", "engine"),
    ("engine/machine", "engine/batches", "engine/inference"),
)
"""Folders of one package: each imports the ones before it in its line, none after it."""
SIBLINGS = set(LAYERS[2])
HOMES = {
    "mlflow": {"tracking"},
    "hydra": {"compose", "sweep"},
    "omegaconf": {"compose", "explain", "sweep"},
    "dvc": set(),
    "dvclive": set(),
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "werkzeug": {"serve"},
}
"""Packages that only these may import."""
LIGHT = ("model", "engine", "merging")
"""They import without mlflow, dvc, hydra, omegaconf and av: a GPU machine may have none of them."""


def part(path: Path) -> str:
    """The top-level module or package a file belongs to."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted module, at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "unival":
                found += [(f"unival.{alias.name}", id(node) in top) for alias in node.names]
            else:
                found.append((node.module, id(node) in top))
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    own = part(path)
    assert own in rank, f"{path}: give '{own}' a place in LAYERS"
    for name, _ in imports(path):
        if not name.startswith("unival."):
            continue
        other = name.split(".")[1]
        assert other in rank, f"{path}: imports {name}, which has no place in LAYERS"
        assert rank[other] <= rank[own], f"{path}: imports {name} from a layer above"
        assert not ({own, other} <= SIBLINGS and own != other), f"{path}: siblings: imports {name}"


def file_of(dotted: str) -> Path | None:
    """The file of a module or package of ours."""
    place = SOURCE.parent.joinpath(*dotted.split("."))
    known = [place.with_suffix(".py"), place / "__init__.py"]
    return next((path for path in known if path.is_file()), None)


def files_imported(path: Path) -> set[Path]:
    """Files of ours that a file imports anywhere, functions and type checking included."""
    found: set[Path | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = node.module
            found |= {file_of(f"{package}.{alias.name}") or file_of(package) for alias in node.names}
    return {file for file in found if file is not None}


def test_no_circle_of_files() -> None:
    """Imports inside functions count: a circle is one subject in two files, or two in one."""
    graph = {path: files_imported(path) for path in SOURCE.rglob("*.py")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = [str(path.relative_to(SOURCE)) for path in reversed(error.args[1])]
        pytest.fail(" imports ".join(circle))


@pytest.mark.parametrize("line", ROOMS, ids=" < ".join)
def test_rooms_of_a_package_import_down(line: tuple[str, ...]) -> None:
    for number, room in enumerate(line):
        above = {SOURCE / name for name in line[number + 1 :]}
        for path in (SOURCE / room).glob("*.py"):
            wrong = [file for file in files_imported(path) if file.parent in above]
            assert not wrong, f"{path}: imports {wrong[0]} from a room above"


def test_a_room_has_one_subject() -> None:
    """Its first line is one sentence, and needs no "and"."""
    for path in SOURCE.glob("*/**/__init__.py"):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        assert first.endswith(".") and "\n" not in first, f"{path}: start with one sentence on one line"
        assert " and " not in first, f"{path}: more than one subject: {first}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_tools_stay_in_their_place(path: Path) -> None:
    for name, top in imports(path):
        package = name.split(".")[0]
        if package in HOMES:
            assert part(path) in HOMES[package], f"{path}: imports {package}"
            assert not top or part(path) == "serve", (
                f"{path}: imports {package} when it is imported: move it into the function"
            )
        if part(path) in LIGHT:
            assert package != "av", f"{path}: imports av"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_copies_are_whole_or_absent(path: Path) -> None:
    """`files.copy` and `folders.copy` alone copy: they leave no half, and tell a full disk in a line."""
    made = re.findall(r"shutil\.(?:copy\w*|move)\(", path.read_text())
    assert not made or path.stem in ("files", "folders"), f"{path}: {made[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_commands_alone_read_arguments(path: Path) -> None:
    """A library has no command line, and none of it needs one."""
    if part(path) not in ("cli", "commands"):
        names = {name for name, _ in imports(path)}
        assert "argparse" not in names and not any(name.startswith("unival.commands") for name in names)


def test_no_two_classes_have_one_name() -> None:
    """But for `Config`, which every stage has as its interface, beside `run`."""
    places: dict[str, list[Path]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not (part(path) == "stages" and node.name == "Config"):
                places.setdefault(node.name, []).append(path)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_one_name_per_stage() -> None:
    declared = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) - {"compose"}
    templates = {path.stem for path in (ROOT / "conf/stage").glob("*.yaml")}
    files = {path.stem for path in (SOURCE / "stages").glob("*.py")} - {"__init__", "base"}
    assert declared == set(STAGES) == templates == files
    for name in STAGES:
        assert yaml.safe_load((ROOT / f"conf/stage/{name}.yaml").read_text())["stage"] == name
        assert module(name).run and module(name).Config


def test_every_command_of_the_pipeline_names_its_own_stage() -> None:
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        command = stage.get("do", stage)["cmd"]
        assert command.startswith("PYTHONPATH=src python -m unival "), "imports the code beside it"
        expected = "compose" if name == "compose" else f"run {name} --config build/config/{name}"
        assert expected in command
