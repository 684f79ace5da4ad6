"""Finds the photo, clip or sound that an annotation names, in the files under a folder, also inside zips.

A medium is found by its name, its place and modality. The name is the whole file name where the annotation
gives a suffix, else the stem. Of several files of that name the place decides: the path that is written, the
annotation's own folder, then the one above it, and so on; files come before zip members. Two that are equally
near are an error, because no guess is right for all data sets.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unival import limits
from unival.data.disk_map import DiskMap, Lists
from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem
from unival.data.sources.splits import split_of
from unival.errors import UserError, nearest
from unival.files import inside
from unival.record import Modality

USUAL: dict[Modality, str] = {"image": ".jpg", "video": ".mp4", "audio": ".wav"}
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


class _Place(NamedTuple):
    """Where a medium lies."""

    archive: int
    """Number of its zip, from 1; 0 for a file."""
    path: PurePosixPath
    """Below the root. That of a zip member is its path in the zip, below the zip's own without its suffix."""
    member: str
    """Name in the zip."""

    @property
    def split(self) -> str:
        """The split that its folder says."""
        return split_of(str(self.path.parent))

    def is_called(self, name: PurePosixPath) -> bool:
        """Whether its path ends with the name, which may leave out the suffix."""
        stem, suffix = parted(name.name)
        own_stem, own_suffix = parted(self.path.name)
        folders = self.path.parts[:-1][len(self.path.parts) - len(name.parts) :]
        return own_stem == stem and suffix in ("", own_suffix) and folders == name.parts[:-1]


def parted(name: str) -> tuple[str, str]:
    """A file name as stem and media suffix in small letters, "" where it has none."""
    stem, dot, suffix = name.rpartition(".")
    suffix = f"{dot}{suffix}".lower()
    return (stem, suffix) if stem and suffix in SUFFIXES else (name, "")


class MediaFolder:
    """All media files under a folder. `item` gives each of them once per split.

    Links to folders are followed, each folder once. Hidden files and folders are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = folder(root)
        self._places, self._given = Lists(), DiskMap()
        self._splits = DiskMap()
        """File name -> the split that the folder of its first file says."""
        self._anew = False
        """Whether two splits use one file name: each numbers its media anew."""
        self._zips: list[zipfile.ZipFile] = []
        zips, walked = [], set[str]()
        for parent, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            if (real := os.path.realpath(parent)) in walked:
                folders.clear()
                continue
            walked.add(real)
            below = PurePosixPath(Path(parent).relative_to(root).as_posix())
            for name in sorted(names):
                if name.lower().endswith(".zip") and Path(parent, name).is_file():
                    zips.append(Path(parent, name))
                else:
                    self._enter(_Place(0, below / name, ""))
        for path in sorted(zips):
            self._enter_zip(path)

    def _enter_zip(self, path: Path) -> None:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable zip file: {error}: get it again") from error
        self._zips.append(archive)
        below = PurePosixPath(path.relative_to(self.root).with_suffix("").as_posix())
        for member in archive.namelist():
            self._enter(_Place(len(self._zips), below / member.lstrip("/"), member))

    def _enter(self, place: _Place) -> None:
        name = place.path.name
        stem, suffix = parted(name)
        if not suffix or name.startswith("."):
            return
        self._places.add(stem, f"{place.archive}\0{place.path}\0{place.member}")
        if (split := place.split) and not self._splits.add(name, split):
            self._anew = self._anew or self._splits.get(name) != split

    def first(self, modality: Modality, *names: str) -> str:
        """The first of the names that a medium of that modality has, else the first of all."""
        return next((name for name in names if self.has(modality, name)), names[0])

    def has(self, modality: Modality, name: str) -> bool:
        """Whether there is a medium of that modality and name, wherever."""
        return bool(self._called(modality, PurePosixPath(name)))

    def once(self, split: str, key: str) -> bool:
        """Whether the split has not had this medium; from now on it has."""
        return self._given.add(f"{split}\0{key}")

    def item(
        self, split: str, modality: Modality, key: str, name: str, beside: Path
    ) -> Iterator[MediaItem | BadItem]:
        """The medium of that name, unless this split has had it already.

        One that is missing is given all the same, by the path where it should be: `prepare` reports it.

        Args:
            beside: folder of the annotation file.

        Raises:
            UserError: two files could be meant, or the name leads out of the folder.
        """
        path = inside(self.root, name)
        if f"{split}\0{key}" in self._given:
            return
        place = self._find(split, modality, PurePosixPath(name), beside)
        self.once(split, key)
        if place is None:
            missing = path if parted(name)[1] else path.with_name(path.name + USUAL[modality])
            yield MediaItem(split, key, missing, read_as=modality)
        elif place.archive:
            yield _unzipped(split, key, self._zips[place.archive - 1], place.member, modality)
        else:
            yield MediaItem(split, key, self.root / place.path, read_as=modality)

    def _called(self, modality: Modality, name: PurePosixPath) -> list[_Place]:
        """All media of that kind and name; clips are heard where no sound has it."""
        by_modality: dict[Modality, list[_Place]] = {"image": [], "video": [], "audio": []}
        for text in self._places.get(parted(name.name)[0]):
            archive, path, member = text.split("\0")
            place = _Place(int(archive), PurePosixPath(path), member)
            if place.is_called(name):
                by_modality[SUFFIXES[place.path.suffix.lower()]].append(place)
        return by_modality[modality] or (by_modality["video"] if modality == "audio" else [])

    def _find(self, split: str, modality: Modality, name: PurePosixPath, beside: Path) -> _Place | None:
        """The medium that is nearest to the annotation; another split's only where names are shared."""
        own = PurePosixPath(beside.relative_to(self.root).as_posix())
        written = own / name.parent, name.parent
        row_split = split_of(split)

        def distance(place: _Place) -> tuple[int, bool, bool]:
            folder = place.path.parent
            if folder in written:
                away = written.index(folder)
            else:
                parents = enumerate((own, *own.parents))
                away = len(written) + next(up for up, above in parents if above in place.path.parents)
            return away, place.archive > 0, place.path.name != name.name  # x.jpg before x.JPG

        places = self._called(modality, name)
        if row_split and (self._anew or split_of(str(own))):
            places = [
                place for place in places if place.split in ("", row_split) or place.path.parent in written
            ]
        nearest_ones = [place for place in places if distance(place) == min(map(distance, places))]
        candidates = [place for place in nearest_ones if place.split == row_split] or nearest_ones
        if (
            len(candidates) > 1
            and len({os.path.realpath(self.root / place.path) for place in candidates}) > 1
        ):
            first, second = (self.root / place.path for place in candidates[:2])
            raise UserError(
                f"{first} and {second} could both be '{name}': move one of them out of the folder"
            )
        return candidates[0] if candidates else None


def _unzipped(
    split: str, key: str, archive: zipfile.ZipFile, member: str, modality: Modality
) -> MediaItem | BadItem:
    file = f"{archive.filename}/{member}"
    try:
        if archive.getinfo(member).file_size > limits.MEDIUM_BYTES:
            raise UserError(f"claims more than {limits.MEDIUM_BYTES} bytes")
        return MediaItem(split, key, archive.read(member), Path(member).suffix, file, member, modality)
    except Exception as error:  # zipfile and zlib raise almost anything on damaged members
        return BadItem(file, member, "media", f"cannot read: {error}")
