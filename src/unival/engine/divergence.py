"""Steps that training must not go on from: the loss is not finite, or jumped."""

import math
from collections.abc import Sequence

from torch import Tensor

from unival import files
from unival.engine.checkpoint import Checkpoints
from unival.errors import DivergenceError


class SpikeAlarm:
    """Finds losses that are not finite, or far above their running mean (an average over ~50 steps)."""

    MEMORY = 0.98
    PATIENCE = 20

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.mean = 0.0
        self.seen = 0
        self._noted: list[tuple[int, Tensor, Tensor]] = []

    def note(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Loss per token and gradient norm of a step, to be looked at later: reading them waits for a GPU."""
        self._noted.append((step, loss, norm))

    def find(self) -> tuple[int, str] | None:
        """The first of the noted steps with which something is wrong, and what."""
        noted, self._noted = self._noted, []
        for step, loss, norm in noted:
            problem = self._problem(float(loss), float(norm))
            if problem:
                return step, problem
        return None

    def _problem(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        if self.limit and self.seen >= self.PATIENCE and loss > self.mean + self.limit:
            return f"the loss jumped to {loss:.2f} from a running mean of {self.mean:.2f}"
        self.mean = loss if self.seen == 0 else self.MEMORY * self.mean + (1 - self.MEMORY) * loss
        self.seen += 1
        return None


def bad_step(
    step: int, problem: str, rows: Sequence[str], checkpoints: Checkpoints, main: bool
) -> DivergenceError:
    """The error of a step with these rows, which the main rank also writes beside the checkpoints."""
    path = checkpoints.folder / f"bad-step-{step}.json"
    if main:
        files.write_json(path, {"step": step, "problem": problem, "rows": list(rows)})
    checkpoints.settle()
    steps = checkpoints.steps()
    kept = checkpoints.path(steps[-1]) if steps else "none yet"
    start = "from it (as `init`)" if steps and checkpoints.describe else "anew"
    return DivergenceError(
        f"step {step}: {problem}: rows {', '.join(rows[:8])}{', ...' * (len(rows) > 8)} (all in {path}); "
        f"last good checkpoint: {kept}: check the rows, or start {start} at a lower rate"
    )
