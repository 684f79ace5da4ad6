"""The load of the machine while a run goes on, where MLflow shows it: under System metrics.

Measured by MLflow's own monitors, but not in its thread: that writes to the store, which may be out of reach.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

PERIOD = 10.0
"""Seconds between two measurements: also MLflow's."""


class MachineLoad(threading.Thread):
    """Reports processor, memory, disk and GPU until it is stopped."""

    def __init__(self, report: Callable[[Mapping[str, float], int], None], first: int) -> None:
        """`report`: gets figures and their number, from `first` on."""
        super().__init__(daemon=True, name="machine load")
        self._report, self._first, self._stopped = report, first, threading.Event()
        self._monitors = _monitors()

    def run(self) -> None:
        """Measure until it is stopped."""
        number = self._first
        while not self._stopped.wait(PERIOD):
            found: dict[str, float] = {}
            for monitor in self._monitors:
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._report({f"system/{key}": float(value) for key, value in found.items()}, number)
            number += 1

    def stop(self) -> None:
        """Measure no more."""
        self._stopped.set()


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    try:
        return [CPUMonitor(), DiskMonitor(), GPUMonitor()]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return [CPUMonitor(), DiskMonitor()]
