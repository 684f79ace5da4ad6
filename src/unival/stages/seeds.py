"""The study again with other seeds: new initial weights, order of rows and augmentation, on the same data.

Every seed is trained, merged, evaluated and ablated in a folder of its own, with the commands of the
pipeline, as many seeds at once as there are cores. Models are thrown away; what stays of a seed is
`reports/seeds/<seed>/`: `metrics/`, `ablations/` and `runs/` as below `reports/`, and `seed.json`
(`unival.study.tables.Repeat`). A finished seed is kept in the scratch folder: another one can be added later.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unival.data.remote import local
from unival.stages.base import StageIO
from unival.study import processes


@dataclass(frozen=True)
class Config:
    """`conf/stage/seeds.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    phases: list[str]
    tasks: list[str]
    seed: int
    """Of the pipeline itself."""
    seeds: list[int]
    """The others."""
    study: str = ""
    """Digest of what all seeds share."""
    repeats: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Seed -> process -> its resolved configuration."""

    def __post_init__(self) -> None:
        if len({self.seed, *self.seeds}) != 1 + len(self.seeds):
            raise ValueError(
                f"seeds: {self.seeds}: each must be there once, and {self.seed} is the pipeline's own (seed)"
            )


def repeat(values: dict[str, Any], resolved: processes.Resolved) -> dict[str, Any]:
    """The values with the configuration of every process of every seed."""
    return values | {
        "study": processes.digest(values, resolved) if values["seeds"] else "",
        "repeats": {seed: dict(processes.configurations(values, resolved, seed)) for seed in values["seeds"]},
    }


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    return [local(config.data)]


def run(config: Config, io: StageIO) -> None:
    """Write `reports/seeds`."""
    from unival.engine.machine.runtime import parallel
    from unival.study import seeds

    folder = io.scratch / "seeds"
    folder.mkdir(exist_ok=True)
    jobs = [
        partial(seeds.repeat, io.shared_scratch, folder / str(seed), config.data, config.study, seed, configs)
        for seed, configs in config.repeats.items()
    ]
    parallel(jobs, "seeds")
    io.publish(folder, "reports/seeds")
