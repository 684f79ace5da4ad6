"""A document of sections, tables and figures, written as one HTML file and as Markdown.

The HTML file holds its style and its pictures, and no script: it opens from disk and prints. Texts may hold
`code` and **bold**; everything else is escaped.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class TonedCell:
    """A table cell with a tone."""

    text: str
    tone: str = ""
    """`good`, `bad` or empty: colour only repeats what the text says."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class DataTable:
    """Columns of a table; the first is text, the others are numbers where `numbers` says so."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | TonedCell]]
    numbers: bool = True


@dataclass(frozen=True)
class Figure:
    """A picture below the figures folder."""

    file: str
    alt: str
    caption: Sequence[str] = ()
    """Lines below it."""
    kind: str = "chart"
    """`chart`, `wide`, `example` or `sheet`: how much room it takes."""


@dataclass(frozen=True)
class Figures:
    """Pictures side by side where there is room."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Fold:
    """Blocks that open on a click."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Points | DataTable | Figures | Fold


@dataclass(frozen=True)
class Section:
    """A headed part."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its place in the page's address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    lead: str
    sections: Sequence[Section]


def to_html(document: Document, figures: Path) -> str:
    """One self-contained page; `figures` is the folder the pictures are read from."""
    links = "".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>' for s in document.sections)
    body = "".join(_section(section, figures) for section in document.sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(document.title)}</title>\n<style>\n{STYLE}</style></head>\n<body>"
        f'<header><h1>{html.escape(document.title)}</h1><p class="lead">{_inline(document.lead)}</p>'
        f"<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n"
    )


def _section(section: Section, figures: Path) -> str:
    blocks = "\n".join(_block(block, figures) for block in section.blocks)
    return f'<section id="{section.anchor}"><h2>{html.escape(section.title)}</h2>\n{blocks}</section>\n'


def _block(block: Block, figures: Path) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, DataTable):
        return _table(block)
    if isinstance(block, Fold):
        inner = "\n".join(_block(one, figures) for one in block.blocks)
        return f"<details><summary>{html.escape(block.title)}</summary>{inner}</details>"
    return '<div class="figures">' + "".join(_figure(f, figures) for f in block.figures) + "</div>"


def _table(table: DataTable) -> str:
    head = "".join(f"<th>{_inline(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(_td(*pair) for pair in zip(row, table.columns, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    kind = "numbers" if table.numbers else "words"
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>\n{rows}</tbody></table></div>'


def _td(cell: str | TonedCell, column: str) -> str:
    """A cell that knows its column: a phone shows rows of words as cards."""
    kind = f' class="{cell.tone}"' if isinstance(cell, TonedCell) and cell.tone else ""
    return f'<td{kind} data-column="{html.escape(column)}">{_inline(plain(cell))}</td>'


def _figure(figure: Figure, folder: Path) -> str:
    data = base64.b64encode((folder / figure.file).read_bytes()).decode()
    lines = "<br>".join(_inline(line) for line in figure.caption)
    caption = f"<figcaption>{lines}</figcaption>" if lines else ""
    image = f'<img alt="{html.escape(figure.alt)}" src="data:image/png;base64,{data}">'
    return f'<figure class="{figure.kind}"><div>{image}</div>{caption}</figure>\n'


def _inline(text: str) -> str:
    safe = html.escape(text, quote=False)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", safe)


def to_markdown(document: Document, figures: str) -> str:
    """The same content; `figures` is the folder of the pictures relative to the file."""
    parts = [f"# {document.title}", _escaped(document.lead)]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [markdown(block, figures) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def markdown(block: Block, figures: str) -> str:
    """A block; `figures` is the folder of the pictures relative to the file."""
    if isinstance(block, Text):
        return _escaped(block.text)
    if isinstance(block, Points):
        return "\n".join(f"- {_escaped(item)}" for item in block.items)
    if isinstance(block, DataTable):
        rule = ["---", *(["---:" if block.numbers else "---"] * (len(block.columns) - 1))]
        lines = [block.columns, rule, *([plain(cell) for cell in row] for row in block.rows)]
        return "\n".join(
            "| " + " | ".join(_escaped(c).replace("|", "\\|") for c in line) + " |" for line in lines
        )
    if isinstance(block, Fold):
        return "\n\n".join([f"### {block.title}", *(markdown(one, figures) for one in block.blocks)])
    return "\n\n".join(_picture(figure, figures) for figure in block.figures)


def _picture(figure: Figure, folder: str) -> str:
    caption = "".join(f"  \n{_escaped(line)}" for line in figure.caption)
    alt = _escaped(re.sub(r"[\[\]]", " ", figure.alt))
    return f"![{alt}]({folder}/{figure.file}){caption}"


def plain(cell: str | TonedCell) -> str:
    """The text of a cell."""
    return cell.text if isinstance(cell, TonedCell) else cell


def _escaped(text: str) -> str:
    """Without tags, links and addresses, which Markdown would make links of; `code` and **bold** stay."""
    text = text.replace("\\", "\\\\").replace("<", "&lt;").replace("\n", " ")
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    return re.sub(r"(?i)\b(https?|ftp)(?=:)|\bwww(?=\.)", lambda found: f"{found[0]}\\", text)
