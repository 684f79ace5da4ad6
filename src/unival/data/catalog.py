"""All sources of data there are: the readers of published sets and the benchmarks."""

import importlib
import pkgutil

from unival.data import benchmarks, sources
from unival.data.prepare import PrepareConfig
from unival.data.source import SOURCES, Source


def load_sources() -> None:
    """Import every module that registers a source."""
    for package in (sources, benchmarks):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(info.name)


def source_of(config: PrepareConfig, where: str = "benchmark") -> Source:
    """The source that a configuration names, with its options; `where` says for messages where it stands.

    Raises:
        UserError: an unknown source, an unusable option.
    """
    load_sources()
    return SOURCES[config.source](config.options, f"{where}: options")
