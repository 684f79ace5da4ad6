"""docs/tutorial.md, followed to the letter: its Python, then every command, in one shell."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, Run

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tutorial_works_as_written(clone: Path, run: Run) -> None:
    (clone / "params.yaml").write_text((ROOT / "params.yaml").read_text())  # the edition of a reader
    code, commands = (re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S) for kind in ("python", "sh"))
    run("python", "-c", "".join(code))
    said = run("bash", "-euxc", "".join(commands)).stdout
    print(said)  # with -s: the figures of the page
    assert "read: 336 rows and media; nothing is written" in said
    assert re.search(r"^best: multirun/\S+/0/models/finetune/caption$", said, re.M)
    scores = [float(value) for value in re.findall(r"^cider +([\d.]+)  \[", said, re.M)]
    start, expert, again, from_results, merged = scores
    assert start < merged < expert == again == from_results
    assert re.search(r"^a \w+ (circle|square) .*  \(", said, re.M)
    assert re.search(r"^mine\.jsonl against start\.jsonl: clearly better in 1 ", said, re.M)
    assert re.search(r'"answers": ?\[\{"file": ?"test-0\.png", ?"answer": ?"\w', said)
