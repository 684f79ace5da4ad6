"""Prepared data on an object store, through `fsspec`: a local folder that fills itself.

`mirror` copies all of a benchmark but its media shards, and notes where they are; `fetch` copies a shard when
it is first opened. A store that fails is asked again for a few minutes. The folder is a cache: what is there
is not asked for again.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unival.errors import UserError
from unival.files import atomic, inside, locked, write_text

ORIGIN = ".origin"
CACHE = Path("scratch/cache")
"""Where the pipeline mirrors benchmarks."""
WAITS = (1, 2, 5, 10, 30, 60, 120)
"""Seconds before each further attempt."""


def local(place: str | Path) -> Path:
    """The folder of prepared data: `place`, or a mirror of the object store that it names.

    Raises:
        UserError: the store cannot be reached, or holds no benchmark there.
    """
    return mirror(place, CACHE) if "://" in str(place) else Path(place)


def mirror(url: str | Path, cache: Path) -> Path:
    """The local folder, below `cache`, of the benchmark at `url` (`s3://bucket/data/world`, ...).

    Raises:
        UserError: the store cannot be reached, holds no benchmark there, or has a name that leads elsewhere.
    """
    import fsspec

    url = str(url)
    folder = inside(cache, url.replace("://", "/").strip("/"))
    system, root = fsspec.core.url_to_fs(url)
    names = [name for name in _retried(lambda: system.find(root), url) if not name.endswith(".tar")]
    if not names:
        raise UserError(f"{url}: no prepared data there")
    for name in names:
        path = inside(folder, name[len(root) :].lstrip("/"))
        _copy(system, name, path)
    write_text(folder / ORIGIN, url)  # whole at any time: other ranks read it
    return folder


def fetch(path: Path) -> None:
    """Copy a file that is missing in a mirror; does nothing elsewhere.

    Raises:
        UserError: the store cannot be reached, or does not hold it.
    """
    import fsspec

    if folder := origin(path):
        url = (folder / ORIGIN).read_text(encoding="utf-8")
        system, root = fsspec.core.url_to_fs(f"{url}/{path.relative_to(folder).as_posix()}")
        _copy(system, root, path)


def origin(path: Path) -> Path | None:
    """The mirror that a place is in, if it is in one."""
    return next((folder for folder in path.parents if (folder / ORIGIN).is_file()), None)


def _copy(system: Any, name: str, path: Path) -> None:
    """Once for all processes of this machine: the others wait for the one that copies."""
    if path.exists():
        return
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock):
        try:
            if not path.exists():
                with atomic(path) as part:
                    _retried(lambda: system.get_file(name, str(part)), name)
        finally:
            lock.unlink()


def _retried(work: Callable[[], Any], name: str) -> Any:
    for wait in (*WAITS, None):
        try:
            return work()
        except FileNotFoundError as error:
            raise UserError(f"{name}: not in the store") from error
        except Exception as error:  # each store has errors of its own
            if wait is None:
                raise UserError(f"{name}: the store fails: {error}") from error
            time.sleep(wait)
