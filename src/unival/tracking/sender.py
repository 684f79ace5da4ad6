"""The thread that sends what a run has logged."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from unival.errors import UserError
from unival.tracking.delivery import Delivery, send_all
from unival.tracking.spool import Spool

PERIOD = 5.0
"""Seconds between two attempts; they become more while the store fails, up to LONGEST."""
LONGEST = 60.0
SHORT_PATIENCE = 2.0
"""Seconds that the end of a run waits where the store has failed, or the run: a rank that failed has a reason
to tell before it is ended."""


class Sender(threading.Thread):
    """Sends a spool in the background until it is stopped, and what ended runs of this machine have left."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(daemon=True, name="mlflow")
        self._spool, self.delivery = spool, Delivery(spool)
        self._woken, self._stopped = threading.Event(), False
        self._failed = False

    def run(self) -> None:
        """Send until `stop`, less often while the store fails."""
        period, left = PERIOD, send_all(everywhere=False)
        while not self._stopped:
            try:
                self.delivery.send()
                period = PERIOD
                with suppress(UserError, OSError):  # it costs this run nothing
                    next(left, None)
            except (UserError, OSError) as error:
                if not self._failed:
                    place = self._spool.folder
                    print(
                        f"{error}: the run goes on, {place} keeps what it logs", file=sys.stderr, flush=True
                    )
                self._failed, period = True, min(2 * period, LONGEST)
            self._woken.wait(period)
            self._woken.clear()

    def wake(self) -> None:
        """Try now."""
        self._woken.set()

    def wait(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until something is reached, for some seconds; not as long once the store has failed."""
        self.wake()
        limit = time.monotonic() + (min(seconds, SHORT_PATIENCE) if self._failed else seconds)
        failed = self._failed
        while not reached() and time.monotonic() < limit and self._failed == failed and self.is_alive():
            time.sleep(0.02)

    def stop(self, seconds: float) -> None:
        """Try no more; what it is about ends, or goes on after some seconds."""
        self._stopped = True
        self.wake()
        if self.is_alive():
            self.join(seconds)
