"""Citations of docs/reference.md: each one finds its section there, and each section has a public source."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\d+\.\d+) [^\n]+\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))
NUMBER = r"\d+\.\d+"
CITATION = re.compile(
    rf"(?:\bdocs/reference\.md|\breference),?\s+((?:{NUMBER})(?:(?:,|,? and)\s+(?:{NUMBER}))*)"
)
PUBLIC = re.compile(r"`[\w./]+(?:\.py|\.sh|\.ipynb|/)(?::\d+|`)|scripts of \d|paper, T\d|arxiv\.org/abs/\d")
"""A file of the original's repository, with lines or without; other sections' scripts; a table; a paper."""
FILES = [
    path
    for folder in ("src", "conf", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml")
]


def citations(text: str) -> list[str]:
    """Section numbers that a file cites, line breaks and comment signs within a citation left out."""
    flat = re.sub(r"\n\s*(?:#\s*)?", " ", text)
    return [number for cited in CITATION.findall(flat) for number in re.findall(NUMBER, cited)]


CITING = {path: found for path in FILES if (found := citations(path.read_text(encoding="utf-8")))}


@pytest.mark.parametrize("path", CITING, ids=lambda path: str(path.relative_to(ROOT)))
def test_citations_lead_to_a_section(path: Path) -> None:
    """The page holds every number, and the file says which page it is."""
    assert set(CITING[path]) <= set(SECTIONS)
    assert "docs/reference.md" in path.read_text(encoding="utf-8")


def test_every_section_is_cited_and_has_a_public_source() -> None:
    assert set(SECTIONS) == {number for found in CITING.values() for number in found}
    for number, text in SECTIONS.items():
        source = re.search(r"^Source: (.+)", text, re.M | re.S)
        assert source, f"{number} has no line 'Source: ...'"
        assert PUBLIC.search(source[1]), number
        for scripts in re.findall(r"scripts of (\d\.\d+)", source[1]):
            assert scripts in SECTIONS


def test_no_number_is_cited_without_the_page() -> None:
    """`(2.4)` alone in a comment is a number that nobody can look up."""
    for path in FILES:
        if path.suffix == ".yaml":
            assert not re.search(r"#.*\(\d\.\d+\)", path.read_text(encoding="utf-8")), path
