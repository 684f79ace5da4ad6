"""Hydra takes sweepers from this package alone."""

from unival.sweep import search


class Search(search.Search):
    """`_target_` of conf/hydra/sweeper/random.yaml and tpe.yaml."""
