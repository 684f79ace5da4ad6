"""Whose checkpoints and whose result: what of a run must be equal for it to go on, or to be done."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from unival import files
from unival.engine.batches.rows import Rows
from unival.engine.checkpoint import weights_digest
from unival.engine.machine.distributed import World
from unival.engine.settings import TrainConfig, described
from unival.errors import UserError


def identity(config: TrainConfig, model: nn.Module, data: Mapping[str, Rows]) -> dict[str, str]:
    """Digests of what a run depends on: its checkpoints and its result are for no other.

    Processor and tasks are not among them: whoever calls `train` keeps a scratch folder for each of these.
    """
    rows = {
        stream.task: (len(data[stream.task].records), data[stream.task].digest)
        for stream in config.mixture.streams
        if stream.task in data
    }
    return {
        "another configuration": files.digest(described(config)),
        "other data": files.digest(rows),
        "other initial weights or another architecture": weights_digest(model),
    }


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What is not the same in the identities of two runs, in words."""
    return [what for what, digest in one.items() if other.get(what) != digest]


def check_same(own: Mapping[str, str], ranks: World) -> None:
    """Whether all ranks are about to train the same. All call it.

    Raises:
        UserError: ranks have another configuration, other data or other weights than rank 0; on all ranks.
    """
    for what, digest in own.items():
        number = float(int(digest[:12], 16))  # exact in a float
        differs = [0.0] * ranks.size
        differs[ranks.rank] = float(ranks.broadcast(number) != number)
        others = [rank for rank, other in enumerate(ranks.sum(differs)) if other]
        if others:
            raise UserError(
                f"rank {', '.join(map(str, others))}: {what} than rank 0 has: "
                "give all nodes the same commit, configuration and prepared data, best in one shared folder"
            )


def published(out_dir: Path) -> dict[str, str] | None:
    """Identity of the run whose result a folder holds."""
    try:
        return json.loads((out_dir / "training.json").read_text(encoding="utf-8")).get("identity")
    except (OSError, ValueError, AttributeError):
        return None
