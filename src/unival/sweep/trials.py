"""The points of a search, kept by Optuna in a file of the sweep that all its processes share.

A trial is a point with all its seeds: its jobs have the numbers from `trial * seeds` on. Its value is their
mean score. One that was stopped or failed keeps its number and its point, and runs again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival.errors import UserError

if TYPE_CHECKING:
    import optuna

NAME = "sweep"
JOURNAL = "trials.journal"


def opened(sweep: Path) -> "optuna.Study":
    """The study of a sweep, made where there is none.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("sweep: random and tpe need Optuna: pip install 'unival[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))
    return optuna.create_study(
        storage=storage, study_name=NAME, direction="maximize", load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(),
    )  # fmt: skip


def mend(sweep: Path) -> None:
    """Drop the half line that a kill has left at the journal's end; no other process may be at work."""
    path = sweep / JOURNAL
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def ask(study: "optuna.Study", method: str, seed: int, space: Mapping[str, Any]) -> None:
    """Choose the next point: by its number and the scores before it, wherever the sweep goes on."""
    import numpy as np
    import optuna

    number = len(study.trials)
    word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if method == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=word, constant_liar=True)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=word)
    study.ask(dict(space))


def tell(study: "optuna.Study", number: int, jobs: Sequence[Any]) -> None:
    """The score of a trial, once all its jobs (None: not begun) have ended well or it was pruned.

    Raises:
        UserError: what ended well has no validation score.
    """
    import optuna

    if study.trials[number].state.is_finished() or None in jobs:
        return
    if any(job.status == "PRUNED" for job in jobs):
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
    elif all(job.status == "FINISHED" for job in jobs):
        if any(job.score is None for job in jobs):
            raise UserError("sweep: the stage gives no validation score to search by: list values instead")
        study.tell(number, sum(job.score for job in jobs) / len(jobs))


class Pruning:
    """Whether a job is to end early: its validation score is below the median of other trials at its step.

    The job of the first seed decides, and is followed by the others.
    """

    def __init__(self, sweep: Path, number: int, curve: Path, steps: int) -> None:
        self.pruned = False
        self._sweep, self._number, self._curve, self._steps = sweep, number, curve, steps
        self._study = opened(sweep) if (sweep / JOURNAL).exists() else None
        if self._study is not None and not self._study.user_attrs["prune"]:
            self._study = None
        self._seen = 0

    def decided(self) -> bool:
        """Look at what the job has logged since the last call."""
        if self._study is not None and not self.pruned:
            trial, seed = divmod(self._number, self._study.user_attrs["seeds"])
            if seed:
                self.pruned = self._study.trials[trial].user_attrs.get("pruned", False)
            else:
                self.pruned = self._looked(trial)
        return self.pruned

    def _looked(self, number: int) -> bool:
        import optuna

        assert self._study is not None
        text = self._curve.read_bytes().rpartition(b"\n")[0] if self._curve.is_file() else b""
        points = [line for line in map(json.loads, text.splitlines()) if "val/score" in line]
        new = [line for line in points if self._seen < line["step"] < self._steps]
        if not new:
            return False
        self._seen = new[-1]["step"]
        storage = optuna.storages.get_storage(self._study._storage)
        number_there = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(NAME), number
        )
        trial = optuna.Trial(self._study, number_there)
        for line in new:
            trial.report(line["val/score"], line["step"])
        if not trial.should_prune():
            return False
        trial.set_user_attr("pruned", True)
        return True
