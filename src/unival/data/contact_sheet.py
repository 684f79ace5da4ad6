"""Media as a person looks at them, and a picture of some rows of a task, to judge the data at a glance.

Pictures are enlarged without smoothing, clips are filmstrips, sounds are log spectrograms (time to the right,
frequency upwards); boxes are drawn.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unival.data.manifest import read_records
from unival.data.store import MediaStore
from unival.files import atomic
from unival.record import Record

WIDTH = 300
"""Of a cell, pixels."""
PAD = 12
MEDIA_HEIGHT = 170
FRAMES = 4
COLUMNS = 4
WINDOW = 256
"""Samples of a sound behind a column of its spectrogram."""
INK, GREY, PAPER, LINE = (24, 24, 24), (105, 105, 105), (255, 255, 255), (222, 222, 222)
BOX = (255, 0, 160)
_Line = tuple[str, tuple[int, int, int]]


def contact_sheet(split_dir: Path | str, task: str, path: Path | str, rows: int = 12) -> None:
    """Draw `rows` rows, spread evenly over the split, as a PNG.

    Raises:
        UserError: the split lacks the task, or a medium cannot be read.
    """
    records, store = read_records(split_dir, task), MediaStore(split_dir)
    chosen = [records[int(i)] for i in np.linspace(0, len(records) - 1, min(rows, len(records)))]
    font = ImageFont.load_default(13)
    cells = [_cell(record, store, font) for record in chosen]
    bands = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in band) for band in bands]
    title = f"{Path(split_dir).name} / {task}: {len(cells)} of {len(records)} rows"
    sheet = Image.new("RGB", (COLUMNS * WIDTH, 34 + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((PAD, 9), title, INK, ImageFont.load_default(16))
    top = 34
    for band, height in zip(bands, heights, strict=True):
        draw.line((0, top, sheet.width, top), LINE)
        for column, cell in enumerate(band):
            sheet.paste(cell, (column * WIDTH, top + 1))
        top += height
    with atomic(path) as part:
        sheet.save(part, "PNG")


def _cell(
    record: Record, store: MediaStore, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    picture = _picture(record, store)
    lines = [piece for text, color in _lines(record) for piece in _wrapped(text, color, font)]
    cell = Image.new("RGB", (WIDTH, picture.height + 2 * PAD + 17 * len(lines) + 6), PAPER)
    cell.paste(picture, (PAD, PAD))
    draw = ImageDraw.Draw(cell)
    for number, (text, color) in enumerate(lines):
        draw.text((PAD, picture.height + PAD + 6 + 17 * number), text, color, font)
    return cell


def _lines(record: Record) -> list[_Line]:
    """Prompt in black, what is expected in grey."""
    lines: list[_Line] = [(record.text, INK)] if record.text else []
    if record.form:
        lines.append((f"[{record.form}]", GREY))
    lines += [(f"- {reference}", GREY) for reference in record.references]
    if record.answers:
        lines.append(("= " + ", ".join(f"{a.text} ({a.weight:g})" for a in record.answers), GREY))
    return lines


def _wrapped(
    text: str, color: tuple[int, int, int], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[_Line]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > WIDTH - 2 * PAD:
            lines.append((line, color))
            line = word
        else:
            line = longer
    return [*lines, (line, color)]


def _picture(record: Record, store: MediaStore) -> Image.Image:
    """The row's media side by side; text alone gives an empty strip."""
    parts: list[Image.Image] = []
    if record.image is not None:
        parts.append(_boxed(store.image(record.image), record.box))
    if record.video is not None:
        parts.append(_fitted(filmstrip(store.video(record.video, FRAMES))))
    if record.audio is not None:
        level_FT = spectrogram(store.audio(record.audio), 270)
        parts.append(_fitted(np.repeat((level_FT * 255).astype(np.uint8)[..., None], 3, axis=2)))
    return beside(parts or [Image.new("RGB", (WIDTH - 2 * PAD, 1), PAPER)])


def _fitted(pixels_HWC: np.ndarray) -> Image.Image:
    height, width = pixels_HWC.shape[:2]
    return enlarged(pixels_HWC, min((WIDTH - 2 * PAD) / width, MEDIA_HEIGHT / height))


def _boxed(pixels_HWC: np.ndarray, box: Sequence[float] | None) -> Image.Image:
    image = _fitted(pixels_HWC)
    if box is not None:
        scale = image.width / pixels_HWC.shape[1]
        ImageDraw.Draw(image).rectangle([coordinate * scale for coordinate in box], outline=BOX, width=2)
    return image


def enlarged(pixels_HWC: np.ndarray, scale: float) -> Image.Image:
    """The picture at a scale; from 2 on the largest whole number in it, and no pixel is smoothed."""
    image = Image.fromarray(pixels_HWC)
    scale = float(int(scale)) if scale >= 2 else scale
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)


def filmstrip(frames_THWC: np.ndarray) -> np.ndarray:
    """Frames side by side with a white line between them, uint8 HWC."""
    gap = np.full((frames_THWC.shape[1], 1, 3), 255, np.uint8)
    return np.concatenate([piece for frame in frames_THWC for piece in (frame, gap)][:-1], axis=1)


def beside(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side on white."""
    joined = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), PAPER)
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width
    return joined


def spectrogram(samples_S: np.ndarray, columns: int) -> np.ndarray:
    """Log power, 0 to 1 over 60 dB, (frequency, time) with high frequencies on top; about `columns` wide."""
    samples_S = np.pad(samples_S, (0, max(0, WINDOW - len(samples_S))))
    hop = max(64, len(samples_S) // columns)
    frames_TW = np.lib.stride_tricks.sliding_window_view(samples_S, WINDOW)[::hop] * np.hanning(WINDOW)
    power_FT = np.abs(np.fft.rfft(frames_TW)).T[::-1] ** 2
    decibels = 10 * np.log10(power_FT + 1e-6)
    return np.asarray(np.clip((decibels - decibels.max() + 60) / 60, 0, 1))
