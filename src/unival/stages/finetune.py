"""Finetune the pretrained model on one task; the weights that are best on validation rows are kept."""

from dataclasses import dataclass, field
from typing import Any

from unival.engine.settings import TrainConfig
from unival.stages.base import StageIO
from unival.tasks import TaskConfig


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


def run(config: Config, io: StageIO) -> None:
    """Write `models/finetune/<task>`."""
    from unival.study.benchmark import TRAIN, VAL, Benchmark, load_model, train_and_publish, validation

    benchmark = Benchmark(config.data, config.tasks)
    benchmark.log(io, [TRAIN, VAL])
    model, processor = load_model(config.init, config.processor)
    sources = benchmark.sources(config.tasks, processor, config.train.loss.constrained)
    evaluate = validation(benchmark, config.tasks, processor, config.train.selection)
    train_and_publish(config.train, model, processor, sources, f"models/finetune/{config.item}", io, evaluate)
