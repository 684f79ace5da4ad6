"""What a comparison reads of a study, as one file: small enough to stand with the run in MLflow."""

import zipfile
from pathlib import Path

from unival import files
from unival.errors import UserError

PARTS = (
    "build/config",
    *(f"reports/{name}" for name in ("metrics", "curves", "runs", "predictions", "seeds")),
)
"""Folders of a study that tell what was run and what came out, down to the row."""


def pack(path: Path, out_root: Path, data: Path) -> None:
    """Write the archive: outs below `out_root` come before those of the working directory.

    Args:
        data: the prepared benchmark, whose description goes with it.
    """
    facts = data / "benchmark.json"
    members = {"data/benchmark.json": facts} if facts.is_file() else {}
    for root in (Path(), out_root):
        for part in PARTS:
            folder = root / part
            members |= {str(file.relative_to(root)): file for file in folder.rglob("*") if file.is_file()}
    with files.atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            archive.write(members[name], name)


def unpack(path: Path, folder: Path) -> None:
    """The files of an archive below a folder.

    Raises:
        UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path}: no archive of a study: {error}") from error
