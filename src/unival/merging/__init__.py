"""Weight-space merging of any safetensors checkpoints: streaming, exact, recorded."""

from typing import TYPE_CHECKING, Any

from unival.merging.recipe import AlignRule, Depth, ModuleRule, Recipe, as_recipe

if TYPE_CHECKING:
    from unival.merging.folder_merge import merge
    from unival.merging.live import Interpolation, merge_into
    from unival.merging.verification import verify

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


def __getattr__(name: str) -> Any:
    """What computes is imported when it is asked for, and PyTorch with it: a recipe needs neither."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from unival.merging.folder_merge import merge
    from unival.merging.live import Interpolation, merge_into
    from unival.merging.verification import verify

    return {"Interpolation": Interpolation, "merge": merge, "merge_into": merge_into, "verify": verify}[name]
