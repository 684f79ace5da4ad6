"""The tasks that a model folder carries: prompts, decoding and metric that it was trained with."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from unival import config, files
from unival.errors import UserError
from unival.tasks.base import TaskConfig
from unival.weights import TASKS

CONF = Path("conf/task")
PACKAGED = Path(__file__).parents[3] / CONF
"""Of the repository that this code lies in; none where it is installed without one."""

MLMODEL = "flavors:\n  python_function:\n    loader_module: unival.serve.pyfunc\n"
"""MLflow's description of a folder: which module loads it, by its name; nothing is pickled."""


def write_tasks(tasks: Mapping[str, TaskConfig], folder: Path) -> None:
    """Write the tasks into a model folder, and what lets MLflow ask by them."""
    files.write_text(folder / "MLmodel", MLMODEL)
    files.write_json(folder / TASKS, {name: asdict(task) for name, task in tasks.items()})


def carried(folder: Path) -> dict[str, TaskConfig]:
    """The tasks of a model folder; none where it has no tasks.json.

    Raises:
        UserError: the file is damaged, or a task in it is none.
    """
    path = folder / TASKS
    if not path.is_file():
        return {}
    return {
        name: config.convert(TaskConfig, task, f"{path}: {name}")
        for name, task in files.read_json(path).items()
    }


def foreign(tasks: Iterable[str], known: Sequence[Collection[str]]) -> list[str]:
    """Tasks that none of these models carries; none where a model does not tell its tasks."""
    return sorted(set(tasks).difference(*known)) if all(known) else []


def conf_folder() -> Path:
    """`conf/task` of the repository at hand, else of the one that this code lies in."""
    return CONF if CONF.is_dir() else PACKAGED


def of_conf(folder: Path) -> dict[str, TaskConfig]:
    """The tasks of a folder of YAML files, such as `conf/task`.

    Raises:
        UserError: a file that is no task.
    """
    paths = sorted(folder.glob("*.yaml"))
    return {path.stem: config.build(TaskConfig, config.load(path), str(path)) for path in paths}


def tasks_of(folder: Path, given: Path | None = None) -> dict[str, TaskConfig]:
    """What a model can be asked: the tasks that its folder carries and, beside these, those of `conf/task`.

    Args:
        folder: the model's.
        given: task files to use instead.

    Raises:
        UserError: no tasks anywhere.
    """
    tasks = of_conf(given) if given is not None else of_conf(conf_folder()) | carried(folder)
    if not tasks:
        place = given if given is not None else f"{folder}: it carries no {TASKS}, and here is no {CONF}"
        raise UserError(f"{place}: no tasks there: run in the repository or give a folder of task files")
    return tasks
