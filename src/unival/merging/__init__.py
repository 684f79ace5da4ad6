"""Weight-space merging of any safetensors checkpoints: streaming, exact, recorded."""

from unival.merging.live import Interpolation, merge_into
from unival.merging.recipe import AlignRule, Depth, ModuleRule, Recipe, as_recipe
from unival.merging.record import merge, verify

__all__ = [
    "AlignRule",
    "Depth",
    "Interpolation",
    "ModuleRule",
    "Recipe",
    "as_recipe",
    "merge",
    "merge_into",
    "verify",
]
