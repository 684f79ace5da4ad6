"""All sources of data there are: the readers of published sets and the benchmarks."""

import importlib
import pkgutil

from unival.data import benchmarks, sources


def load_sources() -> None:
    """Import every module that registers a source."""
    for package in (sources, benchmarks):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(info.name)
