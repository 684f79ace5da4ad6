"""The processes that a seed of the study has: each stage and item whose result depends on the seed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unival import files
from unival.code import digest as digest_of_code

STAGES = {"pretrain": "phases", "finetune": "tasks", "merge": None, "evaluate": None, "ablate": None}
"""Stage -> the key of a configuration that lists its items, in the order in which they run."""
Resolved = Callable[[str, str | None, int], dict[str, Any]]
"""Gives the resolved configuration of a stage and item with a seed."""


def configurations(
    values: Mapping[str, Any], resolved: Resolved, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`<stage>` or `<stage>-<item>`, resolved configuration) of every process."""
    for stage, items in STAGES.items():
        for item in values[items] if items else [None]:
            yield f"{stage}-{item}" if item else stage, resolved(stage, item, seed)


def digest(values: Mapping[str, Any], resolved: Resolved) -> str:
    """Of the configurations that the pipeline's own seed gives: equal for all seeds of one study."""
    return files.digest(dict(configurations(values, resolved, values["seed"])))


def code() -> str:
    """Digest of the code that the figures of a seed depend on."""
    return digest_of_code(*(f"unival.stages.{stage}" for stage in STAGES))
