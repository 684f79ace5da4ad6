"""The model folder of a training: weights, processor, tasks, and `training.json` about how it came to be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unival import files
from unival.engine.batches.protocols import Processor
from unival.engine.batches.rows import Rows
from unival.engine.checkpoint import atomic_folder
from unival.engine.identity import published
from unival.engine.machine.distributed import World
from unival.errors import UserError
from unival.model.folder import write_model
from unival.model.modeling import UnivalForConditionalGeneration
from unival.tasks.folder import write_tasks


def publish(
    out_dir: Path,
    model: UnivalForConditionalGeneration,
    processor: Processor,
    data: Mapping[str, Rows],
    summary: Mapping[str, Any],
) -> None:
    """Write the folder, whole or not at all; `data`: the rows of each task that the model was trained on."""
    with atomic_folder(out_dir) as folder:
        write_model(model, folder)
        write_beside(folder, processor, data)
        files.write_json(folder / "training.json", {**summary, "media": learned_modalities(model, data)})


def is_published(out_dir: Path, identity: Mapping[str, str], ranks: World) -> bool:
    """Whether the folder is already there, of the same training.

    Raises:
        UserError: for some ranks it is, for others not.
    """
    count = ranks.sum([float(published(out_dir) == identity)])[0]
    if 0 < count < ranks.size:
        raise UserError(
            f"{out_dir}: some ranks find the finished model there, others not: all nodes must share it"
        )
    return count > 0


def write_beside(folder: Path, processor: Processor, data: Mapping[str, Rows]) -> None:
    """Write what a model folder has beside the model."""
    processor.save_pretrained(folder)
    write_tasks({name: rows.task.config for name, rows in data.items()}, folder)


def learned_modalities(model: UnivalForConditionalGeneration, data: Mapping[str, Rows]) -> list[str] | None:
    """Modalities that the model has seen, in these tasks or before; None: what came before is not known."""
    if model.learned is None:
        return None
    return sorted(model.learned.union(*(rows.task.modalities for rows in data.values())))
