"""One phase of the curriculum: many tasks at once, from new weights or from the phase before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unival.data.remote import local
from unival.engine.settings import TrainConfig
from unival.stages.base import StageIO, keep_trained
from unival.tasks import TaskConfig

keep = keep_trained


@dataclass(frozen=True)
class Config:
    """`conf/stage/pretrain.yaml`."""

    stage: str
    item: str
    """The phase."""
    data: str
    """The prepared benchmark."""
    init: str | None
    """Model folder to start from; null: new weights."""
    model: dict[str, Any]
    """Fields of UnivalConfig, for new weights."""
    processor: dict[str, Any]
    """Settings of UnivalProcessor, of this phase: sizes of images and videos, frames."""
    train: TrainConfig
    tasks: dict[str, TaskConfig]
    """Those of the mixture."""


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    return [local(config.data), *([Path(config.init)] if config.init else [])]


def run(config: Config, io: StageIO) -> None:
    """Write `models/pretrain/<phase>`."""
    from unival.study import card, model_rows
    from unival.study.benchmark import Benchmark
    from unival.study.curve import train_with_curve
    from unival.study.models import load_model, new_model

    benchmark = Benchmark(config.data, config.tasks)
    used = sorted({benchmark.trained_on(config.train.split, task) for task in config.tasks})
    benchmark.log(io.tracker, used)
    if config.init:
        model, processor = load_model(config.init, config.processor)
    else:
        model, processor = new_model(config.model, config.processor, benchmark.tokenizer, config.train.seed)
    finished, curve = train_with_curve(
        model, processor, benchmark, config.tasks, config.train, io.scratch, io.tracker, io.name
    )
    if io.main:
        curve.write(io.out(f"reports/curves/{io.name}.csv"), finished)
        published = io.publish(finished, f"models/pretrain/{config.item}")
        card.write_trained(published, benchmark, config.init, used)
        model_rows.log_examples(published, benchmark, config.tasks, io.scratch, io.tracker)
