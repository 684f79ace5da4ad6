"""Points that Optuna chooses: `hydra/sweeper=random` or `tpe`, over the launchers of Hydra.

`interval(a,b)`, `tag(log,interval(a,b))`, `int(interval(a,b))`, `choice(...)` and `range(...)` are searched;
several values of a `seed` repeat every point. (hydra-optuna-sweeper needs Optuna 2, whose storage in a file
does not work with the SQLAlchemy that MLflow needs; it knows no seeds and does not go on.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

from unival.errors import UserError
from unival.sweep import trials


@dataclass(frozen=True)
class SearchSettings:
    """`conf/hydra/sweeper/<method>.yaml`."""

    method: Literal["random", "tpe"]
    trials: int
    prune: bool
    seed: int
    params: Mapping[str, str] | None = None
    """Overrides of a preset, as those of Hydra's own sweeper."""

    def at_once(self, seeds: int, jobs: int) -> int:
        """How many trials run at once where the launcher runs so many jobs (-1: as joblib does)."""
        if self.method == "random" and not self.prune:
            return self.trials  # none depends on another
        from joblib import cpu_count

        return max(1, (jobs if jobs > 0 else int(cpu_count())) // seeds)


def run(settings: SearchSettings, arguments: Sequence[str], sweeper: Any) -> None:
    """Run all trials with a sweeper of Hydra that was set up.

    Raises:
        UserError: less than one trial, or seeds that are not listed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if settings.trials < 1:
        raise UserError(f"sweep: hydra.sweeper.trials={settings.trials}: give 1 or more")
    given = [*(f"{key}={value}" for key, value in (settings.params or {}).items()), *arguments]
    loader, config = sweeper.hydra_context.config_loader, sweeper.config
    words = OverridesParser.create(config_loader=loader).parse_overrides(given)
    searched = [_Searched(word) for word in words if word.is_sweep_override() and not _is_seed(word)]
    fixed = [str(word.input_line) for word in words if not word.is_sweep_override()]
    seeds = [_listed(word) for word in words if word.is_sweep_override() and _is_seed(word)]
    repeats = list(product(*seeds))
    folder = Path(config.hydra.sweep.dir)
    trials.mend(folder)
    study = trials.opened(folder)
    study.set_user_attr("seeds", len(repeats))
    study.set_user_attr("prune", settings.prune)
    space = {one.key: one.distribution for one in searched}
    size = settings.at_once(len(repeats), config.hydra.launcher.get("n_jobs", 1))
    for first, after in pairwise([*range(0, settings.trials, size), settings.trials]):
        while len(study.trials) < after:
            trials.ask(study, settings.method, settings.seed, space)
        points = study.get_trials(deepcopy=False)[first:after]
        if all(point.state.is_finished() for point in points):
            continue
        batch = [
            [*fixed, *(one.override(point.params[one.key]) for one in searched), *repeat]
            for point in points
            for repeat in repeats
        ]
        sweeper.validate_batch_is_legal(batch)
        ended = sweeper.launcher.launch(batch, initial_job_idx=first * len(repeats))
        jobs = [one.return_value for one in ended]
        for place, number in enumerate(range(first, after)):
            trials.tell(study, number, jobs[place * len(repeats) : (place + 1) * len(repeats)])


def _listed(word: Any) -> list[str]:
    from hydra.core.override_parser.types import IntervalSweep

    if isinstance(word.value(), IntervalSweep):
        raise UserError(f"sweep: {word.input_line}: every point runs with every seed: list them, as seed=0,1")
    return [f"{word.get_key_element()}={value}" for value in word.sweep_string_iterator()]


def _is_seed(word: Any) -> bool:
    return str(word.key_or_group).split(".")[-1] == "seed"


class _Searched:
    """A parameter that is searched: what Optuna chooses from, and the override of what it has chosen."""

    def __init__(self, word: Any) -> None:
        import optuna
        from hydra.core.override_parser.types import IntervalSweep, RangeSweep

        self.key, value = word.get_key_element(), word.value()
        self.values: Sequence[str] | None = None
        dist = optuna.distributions
        if isinstance(value, IntervalSweep):
            assert value.start is not None and value.end is not None
            log, whole = "log" in value.tags, isinstance(value.start, int)
            kind: Any = dist.IntDistribution if whole else dist.FloatDistribution
            self.distribution: Any = kind(value.start, value.end, log=log)
            return
        self.values = list(word.sweep_string_iterator())
        if isinstance(value, RangeSweep):  # in order; each keeps its printed value
            self.distribution = dist.IntDistribution(0, len(self.values) - 1)
        else:
            self.distribution = dist.CategoricalDistribution(range(len(self.values)))

    def override(self, chosen: Any) -> str:
        """Four digits of a number: what is printed is what is used."""
        if self.values:
            return f"{self.key}={self.values[chosen]}"
        return f"{self.key}={chosen:.4g}" if isinstance(chosen, float) else f"{self.key}={chosen}"
