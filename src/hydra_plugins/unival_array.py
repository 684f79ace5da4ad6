"""Hydra takes launchers from this package alone."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher

from unival.sweep import array, jobs


class Array(BasicLauncher):
    """`_target_` of conf/hydra/launcher/slurm.yaml."""

    def __init__(self, n_jobs: int) -> None:
        super().__init__()
        self.n_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Begin the jobs one after the other, then run what is left of them."""
        self.task_function = jobs.begin
        given = super().launch(job_overrides, initial_job_idx)
        begun = [one for one in given if isinstance(one.return_value, jobs.Begun)]
        for one, state in zip(
            begun, array.run([one.return_value for one in begun], self.n_jobs), strict=True
        ):
            one.return_value = state
        return given
