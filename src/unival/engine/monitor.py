"""What a person sees of a run: progress, figures per window, and alarms.

Losses stay on the device until a window ends, so that a GPU is never waited for within a step.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from unival.engine.batches.collate import Batch
from unival.engine.flops import shown
from unival.engine.machine.distributed import World

BOTTLENECK = 0.25
"""Share of a window spent waiting for data from which on the loader counts as slow."""
SLOW_WINDOWS = 2
"""Slow windows in a row after which a person is told: in the first one the loader starts."""


@dataclass(frozen=True)
class TrainResult:
    """What came of a run."""

    steps: int
    best_step: int
    """Step of the published weights."""
    score: float | None
    """Validation score of the published weights."""
    seconds: float
    """Time of this process in the loop, without what a resumed run did before."""
    examples_per_second: float
    data_wait: float
    """Share of the time spent waiting for data."""


class Callback(Protocol):
    """Follows a run, on rank 0. A tracker is one."""

    def on_start(self, info: dict[str, Any]) -> None:
        """Before the first step; `info`: step to start from, steps, parameters, ranks, device."""

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """After every window and every validation (names start with train/, perf/ or val/)."""

    def on_checkpoint(self, step: int, path: Any) -> None:
        """After a checkpoint was written, or began to be in the background."""

    def on_end(self, result: TrainResult) -> None:
        """After the last step, before the model is published."""


@dataclass
class Window:
    """Sums of the steps since the last log line. Tensors stay on the device until `figures`."""

    waited: float = 0.0
    """Seconds for which the loader had been waited for when the window began."""
    started: float = field(default_factory=lambda: time.perf_counter())
    steps: int = 0
    tokens: int = 0
    examples: int = 0
    media: int = 0
    flops: float = 0.0
    damaged: int = 0
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    by_task: Tensor | None = None
    """(tasks, 2): summed negative log-likelihood and scored tokens, of the window's last step."""

    def add(self, micro_batches: Sequence[Batch], loss: Tensor, norm: Tensor, flops: float) -> None:
        """Add a step: loss per token over all ranks, gradient norm before clipping, this rank's FLOPs."""
        self.steps += 1
        self.tokens += sum(batch.num_tokens() for batch in micro_batches)
        self.examples += sum(batch.num_examples for batch in micro_batches)
        self.media += sum(sum(shown(batch).values()) for batch in micro_batches)
        self.flops += flops
        self.damaged += sum(len(batch.damaged) for batch in micro_batches)
        self.losses.append(loss)
        self.norms.append(norm)

    def add_tasks(self, sums_N2: Tensor) -> None:
        """Add the sums of one micro-batch."""
        self.by_task = sums_N2 if self.by_task is None else self.by_task + sums_N2

    def figures(
        self, ranks: World, tasks: Sequence[str], waited: float, peak: float | None
    ) -> dict[str, float]:
        """What is logged of the window, over all ranks, which all call it.

        `waited`: as the field, now. `peak`: FLOP/s of the device at best, where known.
        """
        seconds = time.perf_counter() - self.started
        sums = [self.tokens, self.examples, self.media, self.flops, waited - self.waited]
        tokens, examples, media, flops, waiting = ranks.sum(list(map(float, sums)))
        rate = flops / ranks.size / seconds
        values = {
            "train/loss": float(torch.stack(self.losses).mean()),
            "train/grad_norm": float(torch.stack(self.norms).mean()),
        }
        if self.by_task is not None:
            for task, (nll, count) in zip(tasks, ranks.sum_(self.by_task).tolist(), strict=True):
                if count:
                    values[f"train/loss/{task}"] = nll / count
        return values | {
            "perf/step_seconds": seconds / self.steps,
            "perf/tokens_per_second": tokens / seconds,
            "perf/examples_per_second": examples / seconds,
            "perf/media_per_second": media / seconds,
            "perf/data_wait": waiting / ranks.size / seconds,
            "perf/tflops": rate / 1e12,
            **({"perf/mfu": rate / peak} if peak else {}),
            **memory(ranks.device),
        }


class Monitor:
    """Progress bar and callbacks; silent on ranks other than 0."""

    def __init__(
        self, title: str, start: int, steps: int, callbacks: Sequence[Callback], shown: bool
    ) -> None:
        self.callbacks = callbacks if shown else ()
        self.steps = steps
        self.title = title
        self.shown = shown
        self.slow_windows = 0
        self.bar = tqdm(
            total=steps, initial=start, desc=title, unit="step", disable=None if shown else True, leave=False,
            smoothing=0.1, dynamic_ncols=True,
        )  # fmt: skip

    def tell(self, call: Callable[[Callback], None]) -> None:
        """Call every callback."""
        for callback in self.callbacks:
            call(callback)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Pass a window's figures on; without a terminal they become a line of text."""
        self.tell(lambda callback: callback.on_log(step, values))
        loss = values.get("train/loss")
        if loss is not None:
            self.bar.set_postfix_str(postfix(values))
        if self.shown and self.bar.disable:
            line = f"{self.title} {step}/{self.steps} {brief(values)}"
            if "perf/step_seconds" in values and step < self.steps:
                line += f" eta {tqdm.format_interval((self.steps - step) * values['perf/step_seconds'])}"
            print(line, file=sys.stderr, flush=True)
        wait = values.get("perf/data_wait")
        if wait is None:  # of a validation
            return
        self.slow_windows = self.slow_windows + 1 if wait > BOTTLENECK else 0
        if self.slow_windows == SLOW_WINDOWS:
            self.say(
                f"the loader is the bottleneck: {wait:.0%} of the time goes in waiting for data: "
                "raise `workers` in conf/runtime/ or use smaller media"
            )

    def say(self, text: str) -> None:
        """A line for the person, above the bar, from rank 0."""
        if self.shown:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line for the person, above the bar, from any rank."""
        tqdm.write(f"{self.title}: {text}", file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def brief(values: dict[str, float]) -> str:
    """The figures of one log line."""
    return " ".join(f"{name.split('/', 1)[1]} {value:.4g}" for name, value in values.items())


def postfix(values: dict[str, float]) -> str:
    """What stands behind the bar."""
    words = [f"loss {values['train/loss']:.3f}"]
    if "perf/mfu" in values:
        words.append(f"MFU {values['perf/mfu']:.0%}")
    if "perf/tokens_per_second" in values:
        words.append(f"{values['perf/tokens_per_second']:.3g} tokens/s, waits {values['perf/data_wait']:.0%}")
    return ", ".join(words)


def memory(device: torch.device) -> dict[str, float]:
    """Largest memory so far, in MiB: allocated on the GPU, else resident.

    On a GPU also what PyTorch has taken at most, and how often it found too little, gave back what it held
    and tried again.
    """
    if device.type != "cuda":
        return {"perf/memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    return {
        "perf/memory_mib": torch.cuda.max_memory_allocated(device) / 2**20,
        "perf/memory_reserved_mib": torch.cuda.max_memory_reserved(device) / 2**20,
        "perf/memory_retries": float(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)),
    }
