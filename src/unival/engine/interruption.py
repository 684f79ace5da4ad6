"""When a run is to end before its last step: SIGTERM or Ctrl-C, on any rank."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unival.engine.machine.distributed import World
from unival.engine.machine.launch import ASKS

AGREE_EVERY = 4
"""Steps after which ranks ask each other whether one is to end: each time, all wait for the slowest."""


class Ending:
    """Notes the signals that ask for an end in good order."""

    def __init__(self) -> None:
        self.asked = 0
        """The first signal that came."""

    @property
    def status(self) -> int:
        """What to exit with."""
        return 128 + (self.asked or signal.SIGTERM)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Signals that come inside are noted, a second Ctrl-C ends at once; what is ignored stays so.

        One that came too late to end the work inside comes again after it: others may follow.
        """

        def note(number: int, frame: Any) -> None:
            if number == self.asked == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = self.asked or number

        main = threading.current_thread() is threading.main_thread()  # no other may set handlers
        numbers = [number for number in ASKS if main and signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.asked:
            signal.raise_signal(self.asked)

    def agreed(self, ranks: World, step: int) -> bool:
        """Whether to end after this step, the same on all ranks. All call it."""
        if ranks.size == 1:
            return self.asked != 0
        if step % AGREE_EVERY:
            return False
        return ranks.sum([float(self.asked != 0)])[0] > 0
