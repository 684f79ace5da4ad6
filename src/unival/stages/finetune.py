"""Finetune the pretrained model on one task; the weights that are best on validation rows are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival.data.remote import local
from unival.engine.settings import TrainConfig
from unival.stages.base import StageIO, keep_trained
from unival.tasks import TaskConfig

keep = keep_trained


@dataclass(frozen=True)
class Config:
    """`conf/stage/finetune.yaml`."""

    stage: str
    item: str
    """The task."""
    data: str
    """The prepared benchmark."""
    init: str
    """Model folder to start from."""
    train: TrainConfig
    tasks: dict[str, TaskConfig]
    """The task alone."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Settings of UnivalProcessor that differ from those of `init`."""


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    return [local(config.data), Path(config.init)]


def run(config: Config, io: StageIO) -> None:
    """Write `models/finetune/<task>`."""
    from unival.study import card, model_rows
    from unival.study.benchmark import TRAIN, VAL, Benchmark
    from unival.study.curve import train_with_curve
    from unival.study.models import load_model

    benchmark = Benchmark(config.data, config.tasks)
    benchmark.log(io.tracker, [TRAIN, VAL])
    model, processor = load_model(config.init, config.processor)
    finished, curve = train_with_curve(
        model, processor, benchmark, config.tasks, config.train, io.scratch, io.tracker, io.name
    )
    if io.main:
        table, validated = (io.out(f"reports/curves/{io.name}{part}.csv") for part in ("", "-validation"))
        curve.write(table, finished, validated)
        published = io.publish(finished, f"models/finetune/{config.item}")
        card.write_trained(published, benchmark, config.init)
        model_rows.log_examples(published, benchmark, config.tasks, io.scratch, io.tracker)
