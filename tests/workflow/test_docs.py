"""What README and docs/ say exists: links, paths, commands, settings, examples that a machine can read."""

import argparse
import ast
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from unival import cli, compose, config
from unival.merging import Recipe
from unival.merging.options import OPTIONS
from unival.merging.recipe_digest import canonical_form
from unival.study.merge_settings import Search
from unival.sweep import start

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "data/README.md"]
PAGES += [ROOT / "reports/README.md", ROOT / "findings/README.md", ROOT / "docs/study/README.md"]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files of relative links are there; their anchors are headings of the page they name."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_commands_exist(page: Path) -> None:
    text = TEXTS[page]
    for path in re.findall(r"`((?:conf|src|tests|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path.endswith(("warmup.yaml", "darkness.yaml", "median.yaml")), path
    for command in re.findall(r"(?:^|`|-m )unival ([a-z]+)", text, re.M):
        assert command in cli.COMMANDS, f"unival {command}"
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in targets, f"make {target}"


def test_the_ways_through_the_code_name_what_is_there() -> None:
    """A row of a table in development.md: its files are there, and define the names beside them."""
    for line in TEXTS[ROOT / "docs/development.md"].splitlines():
        words = re.findall(r"`([^`]+)`", line)
        if not line.startswith("|"):
            words = [word for word in words if word.endswith(".py")]
        places = [
            next((base / word for base in (ROOT / "src/unival", ROOT) if (base / word).exists()), None)
            for word in words
            if "/" in word and not word.startswith(("reports/", "<"))
        ]
        assert None not in places, line
        texts = [
            file.read_text(encoding="utf-8")
            for place in places
            for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
        ]
        for name in (word for word in words if re.fullmatch(r"_?[A-Z]\w+(?:\.\w+)?|_\w+", word)):
            for part in name.split("."):
                assert any(re.search(rf"(?:class|def) {part}\b", text) for text in texts), f"{name}: {line}"


def test_every_room_is_on_a_floor() -> None:
    """Modules and packages at the top of `src/unival/` are those of the first column."""
    table = TEXTS[ROOT / "docs/development.md"].split("|---|---|---|")[1].split("\n\n")[0]
    columns = [line.split("|")[1] for line in table.splitlines() if line]
    listed = {name for column in columns for name in re.findall(r"`(\w+)/?`", column)}
    modules = {path.stem for path in (ROOT / "src/unival").glob("[!_]*.py")}
    assert listed == modules | {path.parent.name for path in (ROOT / "src/unival").glob("*/__init__.py")}


def test_every_environment_variable_is_in_the_table() -> None:
    """Those of ours that code, tests or configuration name, and no others."""
    listed = set(re.findall(r"`(UNIVAL_[A-Z_]+)`", TEXTS[ROOT / "docs/pipeline.md"]))
    files = [*(ROOT / "Makefile", ROOT / "dvc.yaml"), *(ROOT / "src").rglob("*.py")]
    files += [*(ROOT / "tests").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), *ROOT.glob("*/*.py")]
    used = {
        name for file in files for name in re.findall(r"\bUNIVAL_[A-Z]+(?:_[A-Z]+)*", file.read_text("utf-8"))
    }
    assert used == listed


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert re.search(rf"^## {re.escape(project['version'])}\b", TEXTS[ROOT / "CHANGELOG.md"], re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_can_be_read(page: Path) -> None:
    for code in blocks(TEXTS[page], "python"):
        ast.parse(code)
    for text in blocks(TEXTS[page], "yaml"):
        assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiments_on_the_command_line_compose(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-S` and `set.` name keys and values that there are."""
    monkeypatch.chdir(ROOT)
    for group, name in re.findall(r"-S (benchmark|edition|model)=([a-z]+)", TEXTS[page]):
        assert name in compose.options(group)
    for name in re.findall(r"\+sweep=([a-z]\w+)", TEXTS[page]):
        assert name in compose.options("sweep")
    for stage, words in re.findall(r"\bset\.(\w+)\.([\w.]+=(?:\[[\w,]+\]|[^\s'`,]+))", TEXTS[page]):
        if "(" in words:  # several values: `test_commands_are_taken` reads them
            continue
        override = f"++set.{stage}.{words}".replace("<recipe>", "average")
        item = {"finetune": "vqa", "pretrain": "image_text"}.get(stage)
        compose.resolve(compose.compose(compose.read_params(), [override]), stage, item)


ENDS = ("&&", "&", "|", ">")


class TakenError(Exception):
    """A command line has been parsed; nothing of it is run."""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of each command takes the words of a page; those of a sweep compose."""

    def only(parse: Callable[..., Any]) -> Callable[..., None]:
        def stop(*given: Any) -> None:
            parse(*given)
            raise TakenError

        return stop

    monkeypatch.chdir(ROOT)
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, only(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(start, "_folder", only(lambda *given: None))  # follows the check of the first job
    for line in "".join(blocks(TEXTS[page].replace("\\\n", ""), "sh")).splitlines():
        if command := re.match(r"(?:[A-Z_]+=\S+ )*(?:.* -m )?unival (?=\w)", line):
            words = shlex.split(line[command.end() :], comments=True)
            given = itertools.takewhile(lambda word: word not in ENDS, words)
            with pytest.raises(TakenError):
                cli.main(list(given))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dvc_takes_the_changed_values_again_and_again(page: Path, tmp_path: Path) -> None:
    """`dvc exp run -S ...` of a page works in the workspace that it has changed before, too."""
    words = [given or quoted for quoted, given in re.findall(r"-S (?:'([^']+)'|([\w.=/]+))", TEXTS[page])]
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for _ in range(2):
        for word in words:
            apply_overrides(tmp_path / "params.yaml", [word])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_quotes_are_as_quoted(page: Path) -> None:
    """A block that opens with the name of a file we have holds what the file holds."""
    for block in blocks(TEXTS[page], "yaml"):
        name = re.match(r"# (conf/[\w/]+\.yaml)", block)
        if name and (ROOT / name[1]).exists():
            assert config.parse(block, str(page)) == config.load(ROOT / name[1])


def test_the_table_of_merge_methods_is_the_registry() -> None:
    """Every method, with its options and their defaults; `matrices` and `exclude` are told below it."""
    told = {}
    for line in TEXTS[ROOT / "docs/merging.md"].splitlines():
        cells = line.split("|")
        for name in re.findall(r"`(\w+)`", cells[1]) if len(cells) == 6 else ():
            told[name] = dict(re.findall(r"`(\w+)` \(([^)]+)\)", cells[3]))
    for name in OPTIONS.names():
        options = vars(config.build(OPTIONS[name], {}, name))
        wanted = {k: v for k, v in options.items() if k not in ("matrices", "exclude")}
        assert {k: type(wanted.get(k, ""))(v) for k, v in told[name].items()} == wanted, name


def test_the_recipes_of_the_merging_page_are_valid() -> None:
    pages = [yaml.safe_load(text) for text in blocks(TEXTS[ROOT / "docs/merging.md"], "yaml")]
    canonical_form(config.build(Recipe, next(page for page in pages if "method" in page), "docs"))
    for name, search in next(page for page in pages if "search" in page)["search"].items():
        config.build(Search, search, name)


def test_every_page_is_in_the_contents_of_the_site() -> None:
    listed = set(re.findall(r"^(?:.*<)?([\w./-]+)>?$", TEXTS[ROOT / "docs/index.md"], re.M))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("myst_parser")
    call = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", "."]
    subprocess.run([*call, str(tmp_path / "site")], cwd=ROOT, check=True)
    assert "unival.merging" in (tmp_path / "site/docs/made/api/unival.merging.html").read_text(
        encoding="utf-8"
    )
