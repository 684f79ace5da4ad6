"""What models read and wrote: pictures with boxes, clips as strips, sounds as spectrograms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unival.data.contact_sheet import beside, contact_sheet, enlarged, filmstrip, spectrogram
from unival.data.store import MediaStore
from unival.engine.inference.predictions import PredictedRow
from unival.errors import UserError
from unival.files import atomic
from unival.report import words
from unival.report.page import Figure
from unival.study.results import Results

PER_TASK = 4
FRAMES = 4
SIDE = 300
"""Of an enlarged picture, pixels."""
TRUE, PREDICTED = (0, 158, 115), ((213, 94, 0), (0, 114, 178))
"""Colours of boxes: the true one is drawn thick, what one or two models answered thin."""


def examples(study: Results, task: str, folder: Path) -> list[Figure]:
    """Some test rows of a task: half of them right, half of them wrong, where there are both."""
    model = study.tasks[task].model
    rows = study.predictions(model, task)
    if not rows:
        study.missing.append(f"reports/predictions/{model}/{task}: no examples to show")
        return []
    store = MediaStore(study.data / "test")
    metric = study.tasks[task].metric
    metric = "correct" if "correct" in rows[0].scores else metric
    figures = []
    for number, row in enumerate(_chosen(rows, metric)):
        name = f"example-{task}-{number}.png"
        try:
            shown = picture([row], store)
        except UserError as error:
            study.missing.append(f"example of {task}: {error}")
            continue
        with atomic(folder / name) as part:
            shown.save(part, "PNG", optimize=True)
        figures.append(
            Figure(name, f"Example of {words.task(task)}", _lines(study, task, row, metric), "example")
        )
    return figures


def _chosen(rows: list[PredictedRow], metric: str) -> list[PredictedRow]:
    """The first right and the first wrong rows, media apart, in the order of the split."""
    apart = list({str(row.media): row for row in reversed(rows)}.values())[::-1]
    right = [row for row in apart if row.scores[metric] >= 0.5]
    wrong = [row for row in apart if row.scores[metric] < 0.5]
    half = PER_TASK // 2
    kept = right[: PER_TASK - min(len(wrong), half)]
    return kept + wrong[: PER_TASK - len(kept)]


def _lines(study: Results, task: str, row: PredictedRow, metric: str) -> list[str]:
    lines = [f"prompt: {study.prompt(task, row)}"]
    output = _said(row)
    mark = "✓" if row.scores[metric] >= 0.5 else "✗"
    lines.append(f"**{mark} {output}**")
    if "iou" in row.scores:
        lines.append(f"IoU {row.scores['iou']:.2f}; true box thick green, predicted box thin orange")
    elif row.answers:
        answers = ", ".join(f"{text} ({weight:g})" for text, weight in row.answers.items())
        lines.append(f"reference: {answers}")
    elif row.references:
        lines.append(f"reference: {row.references[0]}")
    return lines


def _said(row: PredictedRow) -> str:
    """The output as a person reads it: a box in pixels, not in location tokens."""
    if isinstance(row.prediction, tuple):
        return f"({', '.join(f'{side:.0f}' for side in row.prediction)})"
    if "iou" in row.scores:
        return "(no box)"
    return row.output.strip() or "(nothing)"


def picture(rows: Sequence[PredictedRow], store: MediaStore) -> Image.Image:
    """What a row shows, with the boxes that several models answered to it.

    Raises:
        UserError: a medium is not in the store, or cannot be decoded.
    """
    parts = []
    media = rows[0].media
    if "image" in media:
        parts.append(_with_boxes(store.image(media["image"]), rows))
    if "video" in media:
        strip_HWC = filmstrip(store.video(media["video"], FRAMES))
        parts.append(enlarged(strip_HWC, 2 * SIDE / strip_HWC.shape[1]))
    if "audio" in media:
        parts.append(_spectrogram(store.audio(media["audio"])))
    return beside(parts or [Image.new("RGB", (SIDE, 1), "white")])


def _with_boxes(pixels_HWC: np.ndarray, rows: Sequence[PredictedRow]) -> Image.Image:
    image = enlarged(pixels_HWC, SIDE / pixels_HWC.shape[1])
    scale = image.width / pixels_HWC.shape[1]
    draw = ImageDraw.Draw(image)
    if rows[0].box:
        draw.rectangle(_corners(rows[0].box, scale), outline=TRUE, width=5)
        for row, color in zip(rows, PREDICTED, strict=False):
            if isinstance(row.prediction, tuple):
                draw.rectangle(_corners(row.prediction, scale), outline=color, width=2)
    return image


def _corners(box: tuple[float, ...], scale: float) -> list[float]:
    """Scaled, with the first corner before the second: a model may write them the other way round."""
    x0, y0, x1, y1 = (coordinate * scale for coordinate in box)
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _spectrogram(samples_S: np.ndarray) -> Image.Image:
    """Log power, time to the right and frequency upwards, on a colour scale of even lightness."""
    from matplotlib import colormaps

    level_FT = spectrogram(samples_S, 2 * SIDE)
    pixels: Any = (colormaps["viridis"](level_FT)[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((2 * SIDE, SIDE), Image.Resampling.NEAREST)


def sheets(study: Results, folder: Path) -> list[Figure]:
    """A contact sheet of the test rows of every task."""
    figures = []
    for task in study.tasks:
        name = f"contact-{task}.png"
        try:
            contact_sheet(study.data / "test", task, folder / name)
        except (UserError, OSError) as error:
            study.missing.append(f"contact sheet of {task}: {error}")
            continue
        figures.append(Figure(name, f"Contact sheet: {words.task(task)}", (), "sheet"))
    return figures
