"""All merge methods; importing this fills the registry."""

from unival.merging.method import METHODS
from unival.merging.methods import matrices, points, sparse

__all__ = ["METHODS", "matrices", "points", "sparse"]
