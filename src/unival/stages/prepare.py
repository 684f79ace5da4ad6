"""Build the benchmark: manifests, media shards, tokenizer, table of rejected rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unival.data.catalog import source_of
from unival.data.intake import REJECTED
from unival.data.prepare import PrepareConfig
from unival.data.prepare import prepare as build
from unival.stages.base import Laid, StageIO


@dataclass(frozen=True)
class Config:
    """`conf/stage/prepare.yaml`."""

    stage: str
    item: None
    benchmark: PrepareConfig


def keep(values: dict[str, Any], laid: Laid) -> dict[str, Any]:
    """The values without what the benchmark sets in other stages."""
    return values | {"benchmark": {key: value for key, value in values["benchmark"].items() if key != "set"}}


def inputs(config: Config) -> list[Path]:
    """None that a run could go on from: media are read once, and what they gave is an out."""
    return []


def run(config: Config, io: StageIO) -> None:
    """Write `data/processed/<benchmark>`."""
    out = io.out(f"data/processed/{config.benchmark.name}")
    source = source_of(config.benchmark, "build/config/prepare.yaml: benchmark")
    description = build(config.benchmark, source, out)
    if description["rejected"]:
        print(f"prepare: {description['rejected']} faults, listed in {out / REJECTED}", flush=True)
    for split, facts in description["splits"].items():
        io.tracker.dataset(f"{config.benchmark.name}-{split}", facts["digest"], str(out / split), split)
        io.tracker.metrics({f"rows/{split}/{task}": rows for task, rows in facts["rows"].items()})
    io.tracker.metrics({"summary/rejected": description["rejected"]})
