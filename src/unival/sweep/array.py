"""The jobs of a sweep as one job array of SLURM, which starts them as there is room."""

from collections.abc import Sequence

from unival.errors import UserError
from unival.sweep import jobs


def run(begun: Sequence[jobs.Begun], at_once: int) -> list[jobs.JobState]:
    """Run jobs of one sweep to their ends.

    Args:
        begun: the jobs.
        at_once: how many of them may run at the same time.

    Raises:
        UserError: the runtime does not say what a job asks for, or SLURM refuses it.
    """
    from unival.engine.machine import runtime, slurm  # here: Hydra loads this file before it composes

    machine = runtime.load()
    if machine.launcher != "slurm":
        raise UserError(
            f"hydra/launcher=slurm: a job asks for what the runtime says: set {runtime.VARIABLE} to one of "
            "conf/runtime/ with `launcher: slurm`"
        )
    if not begun:
        return []
    of = {one.job.number: one for one in begun}
    commands = {number: ["env", *_settings(one), *one.command()] for number, one in of.items()}
    sweep = begun[0].folder.parent
    ended = slurm.submit(
        commands, machine.processes or 1, machine.slurm, f"unival-{sweep.name}", sweep / "%a/log.txt",
        lambda number: of[number].to_end(), at_once,
    )  # fmt: skip
    return [one.ended(*ended[number]) for number, one in of.items()]


def _settings(job: jobs.Begun) -> list[str]:
    return [f"{name}={value}" for name, value in job.environment().items()]
