"""The canonical form of a recipe: JSON-able values without paths, so its digest names the merge wherever the
files lie."""

import dataclasses
from typing import Any

from unival import config, files
from unival.merging.options import OPTIONS
from unival.merging.recipe import Recipe


def canonical_form(recipe: Recipe, where: str = "merge recipe") -> dict[str, Any]:
    """The recipe as JSON-able values; the models sorted unless their order has a meaning.

    Args:
        where: the recipe's file, with which every message starts.

    Raises:
        UserError: an unknown method or option.
    """
    options = OPTIONS[recipe.method]
    value = dataclasses.asdict(recipe)
    value["models"] = list(recipe.models if options.ordered else sorted(recipe.models))
    value["options"] = dataclasses.asdict(config.build(options, recipe.options, f"{where}: options"))
    for key in ("modules", "align"):
        value[key] = list(value[key])
    return value


def recipe_digest(recipe: Recipe) -> str:
    """A short hash of the canonical form."""
    return files.digest(canonical_form(recipe))
