"""Finds the photo, clip or sound that an annotation names, anywhere under a folder, also inside zips."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem
from unival.data.sources.reader import folder
from unival.errors import UserError

MAX_MEMBER_BYTES = 1024**3
"""A zip member that claims more is refused."""


class MediaFolder:
    """All media files under a folder by name. `item` gives each of them once per split."""

    def __init__(self, root: Path) -> None:
        self.root = folder(root)
        self._paths: dict[str, Path] = {}
        self._stems: dict[str, str] = {}
        self._members: dict[str, tuple[zipfile.ZipFile, str]] = {}
        self._given: set[tuple[str, str]] = set()
        for parent, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith(".zip"):
                    self._open_zip(Path(parent, name))
                else:
                    self._enter(name, Path(parent, name))

    def _enter(self, name: str, path: Path) -> None:
        if path.suffix.lower() in SUFFIXES:
            self._paths.setdefault(name, path)
            self._paths.setdefault(str(path.relative_to(self.root)), path)
            self._stems.setdefault(path.stem, name)

    def _open_zip(self, path: Path) -> None:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable zip file: {error}: get it again") from error
        for member in archive.namelist():
            name = member.rsplit("/", 1)[-1]
            if Path(name).suffix.lower() in SUFFIXES:
                self._members.setdefault(member, (archive, member))
                self._members.setdefault(name, (archive, member))
                self._stems.setdefault(Path(name).stem, name)

    def __len__(self) -> int:
        return len(self._stems)

    def name_of(self, stem: str) -> str | None:
        """The file name with this stem, None where there is none."""
        return self._stems.get(stem)

    def item(self, split: str, key: str, name: str) -> Iterator[MediaItem | BadItem]:
        """The medium called `name` (or with that stem), unless this split has had it already.

        One that is missing is given all the same, by the path where it should be: `prepare` reports it.
        """
        if (split, key) in self._given:
            return
        self._given.add((split, key))
        name = name if name in self._paths or name in self._members else self._stems.get(name, name)
        if name in self._paths or name not in self._members:
            yield MediaItem(split, key, self._paths.get(name, self.root / name))
            return
        archive, member = self._members[name]
        file = f"{archive.filename}/{member}"
        try:
            if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
                raise UserError(f"claims more than {MAX_MEMBER_BYTES} bytes")
            data = archive.read(member)
        except (
            UserError,
            OSError,
            RuntimeError,
            NotImplementedError,
            ValueError,
            zipfile.BadZipFile,
        ) as error:
            yield BadItem(file, member, "media", f"cannot read: {error}")
            return
        yield MediaItem(split, key, data, Path(member).suffix, file, member)
