"""The report's tables for papers, as LaTeX (`booktabs`) and as Markdown."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from unival import files
from unival.report.page import Block, DataTable, Document, Fold, markdown, plain

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "\n": " ",
    "−": "$-$", "≥": r"$\geq$", "≤": r"$\leq$",
    "×": r"$\times$", "±": r"$\pm$", "→": r"$\to$", "…": r"\ldots{}",
}  # fmt: skip
"""Characters that LaTeX reads otherwise, or has not in every font."""


def write_tables(document: Document, folder: Path) -> None:
    """Each table of a report as `<section>[-<number>].tex` and `.md`."""
    for section in document.sections:
        for number, table in enumerate(_tables(section.blocks), 1):
            name = section.anchor + (f"-{number}" if number > 1 else "")
            files.write_text(folder / f"{name}.tex", f"% {section.title}\n{latex(table)}")
            files.write_text(folder / f"{name}.md", markdown(table, "") + "\n")


def latex(table: DataTable) -> str:
    """A table as a `tabular` of booktabs; `code` and **bold** stay what they are."""
    kinds = "l" + ("r" if table.numbers else "l") * (len(table.columns) - 1)
    rows = [[plain(cell) for cell in row] for row in table.rows]
    lines = [_line(table.columns), r"\midrule", *map(_line, rows)]
    return "\n".join(
        [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_inline, cells)) + r" \\"


def _inline(text: str) -> str:
    safe = "".join(SPECIAL.get(letter, letter) for letter in text)
    safe = re.sub(r"`([^`]+)`", r"\\texttt{\1}", safe)
    return re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", safe)


def _tables(blocks: Sequence[Block]) -> Iterator[DataTable]:
    for block in blocks:
        if isinstance(block, DataTable):
            yield block
        elif isinstance(block, Fold):
            yield from _tables(block.blocks)
