"""`verify`: whether a merged folder is what its record says, and whether the merge repeats to the byte."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unival.errors import UserError, nearest
from unival.merging import hashing
from unival.merging.folder_merge import merge
from unival.merging.merge_json import RECORD, read_record
from unival.merging.recipe_digest import recipe_digest


def verify(
    out: Path | str,
    inputs: Mapping[str, Path | str] | None = None,
    base: Path | str | None = None,
    statistics: Mapping[str, Path | str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Check a merged folder against its record, and repeat the merge.

    Inputs are looked for where the record says, unless given. Hashes are computed anew, never from the cache.

    Raises:
        UserError: what differs: an input, the stored output, the recipe, or the repeated output.
    """
    out = Path(out)
    record = read_record(out)
    paths = record.paths
    for given, known in ((inputs, paths.inputs), (statistics, paths.statistics)):
        if unknown := sorted(set(given or {}) - set(known)):
            raise UserError(f"{out}: '{unknown[0]}' is not one of its models: {nearest(unknown[0], known)}")

    def place(path: str) -> Path:
        return (out / path).resolve()

    where = {name: (inputs or {}).get(name, place(path)) for name, path in paths.inputs.items()}
    extra = {name: (statistics or {}).get(name, place(path)) for name, path in paths.statistics.items()}
    if base is not None and paths.base is None:
        raise UserError(f"{out}: was merged without a base: leave out {base}")
    origin = base or (place(paths.base) if paths.base is not None else None)
    anew = place(paths.estimated) if paths.estimated is not None else None
    hashing.compare(record.outputs, out, "the merged weights")
    for name, path in where.items():
        hashing.compare(record.inputs[name], Path(path), f"model '{name}'")
    for name, path in extra.items():
        hashing.compare(record.statistics[name], Path(path), f"statistics of '{name}'")
    if anew is not None and record.estimated is not None:
        hashing.compare(record.estimated, anew, "the statistics estimated for it")
    if origin is not None and record.base is not None:
        hashing.compare(record.base, Path(origin), "the base")
    if recipe_digest(record.recipe) != record.recipe_digest:
        raise UserError(f"{out / RECORD}: the recipe was changed after the merge: its digest differs")
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=out.parent) as folder:
        again = merge(
            record.recipe, where, origin, Path(folder) / "merged", statistics=extra, estimated=anew,
            shard_bytes=record.shard_bytes, **settings,
        )  # fmt: skip
    if again["outputs"] != record.outputs:
        versions = "" if again["versions"] == record.versions else f" (recorded with {record.versions})"
        raise UserError(
            f"{out}: the repeated merge gives other bytes{versions}: the output or the code was changed"
        )
    return again
