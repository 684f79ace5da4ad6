"""Counts of a server, in the text form that Prometheus reads (its exposition format, version 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
QUESTIONS = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        """The samples."""
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.total}"
        yield f"{name}_count {below}"


class Metrics:
    """What a server counts; `waiting` says how many questions wait."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.waiting = waiting
        self.requests: Counter[int] = Counter()
        """Status -> requests for an answer."""
        self.seconds = Histogram(SECONDS)
        self.batches = Histogram(QUESTIONS)

    def text(self) -> str:
        """All samples."""
        return "\n".join(
            [
                *_head("unival_requests_total", "counter", "Requests for an answer, by status."),
                *(f'unival_requests_total{{status="{s}"}} {n}' for s, n in sorted(self.requests.items())),
                *_head("unival_request_seconds", "histogram", "From the first byte to the answer."),
                *self.seconds.lines("unival_request_seconds"),
                *_head("unival_batch_questions", "histogram", "Questions that were answered together."),
                *self.batches.lines("unival_batch_questions"),
                *_head("unival_waiting_questions", "gauge", "Questions that wait for the model."),
                f"unival_waiting_questions {self.waiting()}\n",
            ]
        )


def _head(name: str, kind: str, what: str) -> tuple[str, str]:
    return f"# HELP {name} {what}", f"# TYPE {name} {kind}"
