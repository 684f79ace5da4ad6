"""What a model is asked: the kinds of tasks.

See `base.py` for what one is, `conf/task/` for those there are. `build` makes one from its configuration. A
new kind is one file with a registered class, imported here.
"""

from collections.abc import Sequence

from unival.record import Record
from unival.tasks import (  # noqa: F401  they register
    captioning,
    choosing,
    grounding,
    infilling,
    masked_language,
    question_answering,
)
from unival.tasks.base import TASKS, Boxes, DecodeConfig, Example, ImageSizes, Task, TaskConfig, Value

__all__ = ["TASKS", "DecodeConfig", "Example", "Task", "TaskConfig", "Value", "build"]


def build(
    name: str,
    config: TaskConfig,
    boxes: Boxes,
    sizes: ImageSizes,
    train: Sequence[Record],
    train_sizes: ImageSizes | None = None,
) -> Task:
    """Make the task `name`.

    Args:
        config: `conf/task/<name>.yaml`.
        boxes: the processor (boxes to location tokens and back).
        sizes: the media store of the rows the task will see (image sizes).
        train: the rows of the task's training split: answers, negatives and constants come from them.
        train_sizes: the media store of these, where it is another one.

    Raises:
        UserError: an unknown kind, or a metric the kind does not have.
    """
    return TASKS[config.kind](name, config, boxes, sizes, train, train_sizes)
