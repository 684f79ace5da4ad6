"""Training a model on tasks of a benchmark: the one way of stages, ablations and merges that train again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unival.engine.machine.runtime import load as load_runtime
from unival.engine.monitor import Callback
from unival.engine.settings import TrainConfig
from unival.engine.train import train
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.study.benchmark import Benchmark, validation
from unival.tasks import TaskConfig


def train_on(
    model: UnivalForConditionalGeneration,
    processor: UnivalProcessor,
    benchmark: Benchmark,
    tasks: Mapping[str, TaskConfig],
    settings: TrainConfig,
    out: Path,
    scratch: Path,
    title: str,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train on the rows of `tasks` and write the folder `out`.

    Args:
        settings: with `selection`, the weights are kept that are best on validation rows of the tasks; with
            `loss.constrained`, losses are limited to the answers of each task.
        scratch: what a run needs to go on after a crash.

    Raises:
        UserError: settings that do not fit the data or the machine, or a run that diverges.
    """
    data = benchmark.training_rows(tasks, processor, settings.loss.constrained, settings.split)
    evaluate = validation(benchmark, tasks, processor, settings.selection)
    train(settings, model, processor, data, out, scratch, load_runtime(), callbacks, evaluate, title)
