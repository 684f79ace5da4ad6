"""A plan as text, for whoever books the machine."""

import math

from unival.engine.parallel import UNSHARDED
from unival.engine.planning import devices
from unival.engine.planning.plan import BUCKETS, Site, TrainingPlan, Way
from unival.engine.planning.step import KINDS, Training


def lines(made: TrainingPlan, job: Training, site: Site) -> list[str]:
    """The plan as text."""
    tflop = sum(made.flops.values()) / 1e12
    usable, columns = site.device.usable, (*KINDS, BUCKETS, "total")
    text = [
        f"{site.ranks} x {site.device.name}: {_gib(usable)} usable of {site.device.gib:.1f} GiB, "
        f"{site.device.rate(job.train.precision) / 1e12:.0f} TFLOP/s ({job.train.precision})",
        f"parameters      {made.parameters / 1e6:.1f} million, {made.trained / 1e6:.1f} million trained",
        f"a step          {made.rows:g} rows: {site.ranks} ranks x {made.micro_batches} micro-batches x "
        f"{made.rows / made.micro_batches / site.ranks:g} rows",
        f"                {tflop:.2f} TFLOP: "
        + ", ".join(f"{part} {count / 1e10 / tflop:.0f} %" for part, count in made.flops.items() if count),
        "",
        f"memory of a rank, micro-batches of {made.micro_rows} rows (GiB)",
        "  checkpointing  sharded  " + "".join(f"{kind:>12}" for kind in columns) + "  largest micro-batch",
    ]
    text += [_row(way) for way in made.ways]
    text += ["", _verdict(made, site), *_run(made, job, site)]
    return text


def _row(way: Way) -> str:
    sizes = [*(way.peak[kind] for kind in (*KINDS, BUCKETS)), sum(way.peak.values())]
    figures = "".join(f"{size / devices.GIB:12.2f}" for size in sizes)
    largest = f"{way.largest} rows" if way.largest else f"none: one row takes {_gib(way.needed)}"
    return f"  {_yes(way.checkpointing):13}  {_yes(way.sharded):7}  {figures}  {largest}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _gib(size: float) -> str:
    return f"{size / devices.GIB:.1f} GiB"


def _named(way: Way) -> str:
    names = [
        f"{name} on" if value else ""
        for name, value in (("checkpointing", way.checkpointing), ("sharding", way.sharded))
    ]
    return " and ".join(filter(None, names)) or "neither checkpointing nor sharding"


def _verdict(made: TrainingPlan, site: Site) -> str:
    """Whether the recipe fits, else what would."""
    way = made.way
    if way.fits:
        fewer = _accumulate(made, way, site)
        larger = fewer < made.micro_batches * site.ranks
        text = f"fits with {_named(way)}, which the rest assumes"
        return f"{text}; so would larger micro-batches, down to train.accumulate={fewer}" if larger else text
    best = max(made.ways, key=lambda other: other.largest)
    if best.largest:
        return (
            f"does not fit. Would fit: micro-batches of {best.largest} rows with {_named(best)} "
            f"(train.accumulate={_accumulate(made, best, site)})"
        )
    least = min(other.needed for other in made.ways)
    gib = math.ceil(least / devices.USABLE / devices.GIB)
    return f"does not fit, not even with micro-batches of one row: take devices of {gib} GiB or more"


def _accumulate(made: TrainingPlan, way: Way, site: Site) -> int:
    """Micro-batches of a step over all ranks, each the largest that fits."""
    return site.ranks * math.ceil(made.rows / (site.ranks * way.largest))


def _run(made: TrainingPlan, job: Training, site: Site) -> list[str]:
    """Time, money and storage."""
    way = made.way
    wire = way.wire / site.bandwidth
    text = [
        f"step time       {way.seconds:.3f} s: {way.seconds - wire:.3f} s at {site.utilisation:.0%} of the "
        f"device's rate, {wire:.3f} s on the wire",
        f"on the wire     {_gib(way.wire)} a step and rank, at {site.bandwidth / 1e9:g} GB/s",
        f"whole run       {made.steps:,} steps: {made.hours:,.1f} h ({made.hours / 24:,.1f} days), "
        f"{made.hours * site.ranks:,.0f} GPU hours"
        + (f", cost {made.cost:,.0f}" if made.cost is not None else ""),
        f"checkpoints     {_gib(made.checkpoints)} on disk at most ({job.train.keep} kept, one in writing)",
        f"input           {made.input_rate / 1e6:,.0f} MB/s decoded for each rank, "
        f"{made.rows / way.seconds:,.0f} rows/s over all",
        "not counted     validation, waiting for data, writing checkpoints",
        f"assumed         texts of {job.prompt_tokens} + {job.target_tokens} tokens (--tokens), "
        f"{site.utilisation:.0%} (--utilisation), {site.bandwidth / 1e9:g} GB/s (--bandwidth), no overlap",
    ]
    if site.ranks > 1 and not any(other.sharded for other in made.ways):
        text.append(f"not sharded     {job.train.optimizer.name} {UNSHARDED}")
    return text
