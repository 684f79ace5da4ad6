"""Whose checkpoints and whose result: what of a run must be equal for it to go on, or to be done."""

import json
import socket
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


def check_ranks(own: Mapping[str, str], data: Mapping[str, Rows], ranks: World) -> None:
    """Whether all ranks are about to train the same, on media that they have. All call it.

    Raises:
        UserError: ranks have another configuration, other data or other weights than rank 0, or lack a
            shard; on all ranks.
    """
    lacking = next(filter(None, (rows.store.lacking() for rows in data.values())), "")
    everyone = ranks.gather((own, lacking, socket.gethostname()))
    for what, digest in everyone[0][0].items():
        others = [rank for rank, (its, _, _) in enumerate(everyone) if its[what] != digest]
        if others:
            raise UserError(
                f"rank {', '.join(map(str, others))}: {what} than rank 0 has: "
                "give all nodes the same commit, configuration and prepared data, best in one shared folder"
            )
    for rank, (_, lacking, host) in enumerate(everyone):
        if lacking:
            raise UserError(
                f"rank {rank}: {lacking} on {host}: copy the prepared data there again, best into one folder "
                "that all nodes share"
            )


def published(out_dir: Path) -> dict[str, str] | None:
    """Identity of the run whose result a folder holds."""
    try:
        return json.loads((out_dir / "training.json").read_text(encoding="utf-8")).get("identity")
    except (OSError, ValueError, AttributeError):
        return None
