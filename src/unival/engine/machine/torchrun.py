"""`python -m unival.engine.machine.torchrun <arguments of torchrun>`: the same without its tracebacks.

The ranks have told what was wrong. The exit status is that of the first that failed, or of the signal.
"""

import logging
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    """Start the ranks and wait for them."""
    logging.disable(logging.WARNING)  # of signals that it hands on; some loggers have a level of their own
    try:
        run.main()
    except SignalException as signal:
        sys.exit(128 + signal.sigval)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)


if __name__ == "__main__":
    main()
