"""One phase of the curriculum: many tasks at once, from new weights or from the phase before."""

from dataclasses import dataclass
from typing import Any

from unival.engine.settings import TrainConfig
from unival.stages.base import StageIO
from unival.tasks import TaskConfig


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


def run(config: Config, io: StageIO) -> None:
    """Write `models/pretrain/<phase>`."""
    from unival.study.benchmark import TRAIN, Benchmark, load_model, new_model, train_and_publish

    benchmark = Benchmark(config.data, config.tasks)
    benchmark.log(io, [TRAIN])
    if config.init:
        model, processor = load_model(config.init, config.processor)
    else:
        model, processor = new_model(config.model, config.processor, benchmark.tokenizer, config.train.seed)
    sources = benchmark.sources(config.tasks, processor)
    train_and_publish(config.train, model, processor, sources, f"models/pretrain/{config.item}", io)
