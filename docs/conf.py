"""The documentation as a site: `make docs`, without network.

Pages are the Markdown files of the repository, with the links they have there. The reference of commands,
settings and Python is made here, from help texts, conf/ and docstrings."""

import re
import subprocess
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
MADE = ROOT / "docs/made"
sys.path.insert(0, str(ROOT / "src"))

project = "UnIVAL"
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**",
    "benchmarks/results/*.md",
    "findings/README.md",
    "src/unival/sample/README.md",
]
exclude_patterns = ["README.md", "AGENTS.md", "docs/_build"]
suppress_warnings = ["ref.python"]  # a name of two places in an annotation leads to one of them
extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_title = "UnIVAL"
html_theme = "furo"  # brings its fonts and scripts along
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_mock_imports = ["lmms_eval"]  # which brings much along, and is no dependency
apidoc_modules = [
    {
        "path": "../src/unival",
        "destination": "docs/made/api",
        "module_first": True,
        "automodule_options": {"members"},
    }
]


def commands() -> str:
    """Every command with its help text."""
    from unival import cli

    page = "# Commands\n"
    for name in cli.COMMANDS:
        call = [sys.executable, "-m", "unival", name, "--help"]
        text = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=True).stdout
        page += f"\n## unival {name}\n\n```text\n{text.rstrip()}\n```\n"
    return page


def settings() -> str:
    """The files of conf/, a chapter each group: names, values, and the comments that explain them."""
    page = (
        "# Settings\n\nThe files of `conf/`. `unival list` names what can be chosen; `params.yaml` chooses.\n"
    )
    for group in sorted({path.parent for path in (ROOT / "conf").rglob("*.yaml")}):
        page += f"\n## {group.relative_to(ROOT)}\n"
        for path in sorted(group.glob("*.yaml")):
            page += f"\n### {path.name}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
    return page


def make(app: Sphinx) -> None:
    MADE.mkdir(exist_ok=True)
    (MADE / "commands.md").write_text(commands(), encoding="utf-8")
    (MADE / "settings.md").write_text(settings(), encoding="utf-8")


def markdown(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Docstrings are Markdown: names in single backquotes, signs that mean more in reStructuredText."""
    parts = re.split(r"`+([^`]+)`+", "\n".join(lines))
    parts[::2] = [re.sub(r"([|*\\])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    lines[:] = "".join(parts).split("\n")
    if what in ("attribute", "data"):
        lines.insert(0, "")  # else napoleon takes what stands before a colon for a type


def setup(app: Sphinx) -> None:
    app.add_lexer("csv", TextLexer)
    app.connect("builder-inited", make)
    app.connect("autodoc-process-docstring", markdown, priority=400)  # before napoleon
