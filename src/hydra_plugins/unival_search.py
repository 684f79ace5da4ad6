"""Hydra takes sweepers from this package alone."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from unival.sweep import search


class Search(Sweeper):
    """`_target_` of conf/hydra/sweeper/random.yaml and tpe.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = search.SearchSettings(**settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Hydra's, before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run all trials."""
        search.run(self.settings, arguments, self)
