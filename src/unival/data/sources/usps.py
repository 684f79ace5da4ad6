"""USPS handwritten digits in the HDF5 form of Kaggle's usps.h5: {train|test}/{data,target}."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unival.data import media
from unival.data.source import MediaItem
from unival.data.sources.mnist import digit_rows
from unival.data.sources.reader import Item, reader, require
from unival.errors import UserError


def read_groups(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Group -> images uint8 (N, 16, 16), bright on dark, and labels (N,).

    Raises:
        UserError: not such a file.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading HDF5 needs h5py: pip install h5py") from error
    groups = {}
    try:
        with h5py.File(path) as file:
            for name in file:
                data, labels = np.asarray(file[name]["data"]), np.asarray(file[name]["target"])
                groups[name] = _checked(data, labels, f"{path}: group '{name}'")
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a USPS file with {{train|test}}/{{data,target}}: {error}") from error
    return groups


def _checked(data: np.ndarray, labels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    if data.ndim != 2 or data.shape[1] != 256 or labels.shape != data.shape[:1]:
        raise UserError(
            f"{where}: expected data (N, 256) and target (N,), found {data.shape} and {labels.shape}"
        )
    if not np.isfinite(data).all() or data.min() < 0 or data.max() > 1:
        raise UserError(f"{where}: pixels outside 0 .. 1")
    if not np.isin(labels, np.arange(10)).all():
        raise UserError(f"{where}: a label that is no digit")
    return (data * 255).round().astype(np.uint8).reshape(-1, 16, 16), labels.astype(np.int64)


@reader(
    "usps",
    expects="*.h5 with groups train and / or test, each with data (N, 256) in 0..1 and target (N,)",
    licence="USPS: no licence stated, research use",
    counts={"train/caption": 7_291, "test/caption": 2_007},
)
def read(root: Path) -> Iterator[Item]:
    """Each digit as a 16x16 PNG with a caption and a question."""
    for path in require(root, "*.h5"):
        for split, (images_NHW, labels_N) in read_groups(path).items():
            for index, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
                key = f"usps-{split}-{index:05d}"
                pixels_HWC = np.repeat(image_HW[..., None], 3, axis=2)
                yield MediaItem(split, key, media.encode_image(pixels_HWC), ".png", str(path), str(index))
                yield from digit_rows(split, key, int(label), str(path))
