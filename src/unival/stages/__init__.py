"""The stages of the pipeline, a file each.

A file has a `Config` dataclass and one `run(config, io)`: read, call, write; where its resolved file holds a
part of the tree only, `keep(values, laid)` too; where it holds resolved files of other stages,
`repeat(values, resolved)`. A stage has one name everywhere: the DVC stage, the argument of `unival run`, the
file here, the file in `conf/stage/` and the MLflow experiment.
"""

import importlib
from types import ModuleType

from unival.errors import UserError, nearest

STAGES = ("prepare", "pretrain", "finetune", "merge", "evaluate", "ablate", "seeds", "report")


def module(name: str) -> ModuleType:
    """The module of stage `name`, imported when asked for.

    Raises:
        UserError: no such stage.
    """
    if name not in STAGES:
        raise UserError(f"unknown stage '{name}': {nearest(name, STAGES)}")
    return importlib.import_module(f"unival.stages.{name}")
