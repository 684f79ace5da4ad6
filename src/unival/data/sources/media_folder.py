"""Finds the photo, clip or sound that an annotation names, anywhere under a folder, also inside zips."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem
from unival.data.spool import Spool
from unival.errors import UserError, nearest
from unival.record import Medium

MAX_MEMBER_BYTES = 1024**3
"""A zip member that claims more is refused."""
USUAL: dict[Medium, str] = {"image": ".jpg", "video": ".mp4", "audio": ".wav"}
"""Suffix under which a missing medium is reported."""


def folder(path: Path) -> Path:
    """`path` itself where it is a folder.

    Raises:
        UserError: it is not; the message names what is there instead.
    """
    if not path.is_dir():
        there = [item.name for item in path.parent.iterdir() if item.is_dir()] if path.parent.is_dir() else []
        hint = nearest(path.name, there) if there else f"{path.parent} is missing too"
        raise UserError(f"{path}: no such folder: {hint}")
    return path


class MediaFolder:
    """All media files under a folder, by path, name and stem. `item` gives each of them once per split.

    Links to folders are followed, each folder once.
    Of several with a name the least deep counts, of these the first by path; files come before zip members.
    """

    def __init__(self, root: Path) -> None:
        self.root = folder(root)
        self._places, self._given = Spool(), Spool()
        self._zips: list[zipfile.ZipFile] = []
        zips, start, walked = [], len(f"{root}/"), set[str]()
        for parent, folders, names in os.walk(root, followlinks=True):
            folders.sort()
            if (real := os.path.realpath(parent)) in walked:
                folders.clear()
                continue
            walked.add(real)
            depth = parent.count(os.sep, start)
            for name in names:
                if name.lower().endswith(".zip"):
                    zips.append(Path(parent, name))
                else:
                    name = f"{parent}/{name}"
                    self._enter(name[start:], f"{depth:04d}{name}")
        for path in sorted(zips):
            try:
                archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: not a readable zip file: {error}: get it again") from error
            for member in archive.namelist():
                self._enter(member, f"zip {len(self._zips):04d}{member}")
            self._zips.append(archive)

    def _enter(self, name: str, place: str) -> None:
        path = Path(name)
        if path.suffix.lower() in SUFFIXES:
            for known in {name, path.name, path.stem}:
                self._places.smallest(known, place)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def first(self, *names: str) -> str:
        """The first of the names or stems that is here, else the first of all."""
        return next((name for name in names if name in self), names[0])

    def once(self, split: str, key: str) -> bool:
        """Whether the split has not had this medium; from now on it has."""
        return self._given.add(f"{split}\0{key}")

    def item(self, split: str, medium: Medium, key: str, name: str) -> Iterator[MediaItem | BadItem]:
        """The medium of that name or stem, unless this split has had it already.

        One that is missing is given all the same, by the path where it should be: `prepare` reports it.
        """
        if not self.once(split, key):
            return
        place = self._places.get(name) or self._places.get(Path(name).stem)
        if place is None:
            suffix = "" if Path(name).suffix.lower() in SUFFIXES else USUAL[medium]
            yield MediaItem(split, key, self.root / f"{name}{suffix}")
        elif place.startswith("zip "):
            yield _unzipped(split, key, self._zips[int(place[4:8])], place[8:])
        else:
            yield MediaItem(split, key, Path(place[4:]))


def _unzipped(split: str, key: str, archive: zipfile.ZipFile, member: str) -> MediaItem | BadItem:
    file = f"{archive.filename}/{member}"
    try:
        if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
            raise UserError(f"claims more than {MAX_MEMBER_BYTES} bytes")
        return MediaItem(split, key, archive.read(member), Path(member).suffix, file, member)
    except Exception as error:  # zipfile and zlib raise almost anything on damaged members
        return BadItem(file, member, "media", f"cannot read: {error}")
