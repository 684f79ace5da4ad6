"""No update waits for the GPU: no recipe of the paper and no phase of the study asks it for a value."""

import contextlib
import dataclasses
import multiprocessing
from pathlib import Path

import pytest
import torch

from unival import compose
from unival import config as configuration
from unival.engine.settings import LossConfig, TrainConfig

from . import imagined, standins

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "conf/experiment/paper").glob("*.yaml"))
PHASES = sorted(
    str(path.relative_to(ROOT / "build/config"))
    for name in ("pretrain/*.yaml", "finetune/*.yaml", "ablate.yaml")
    for path in (ROOT / "build/config").glob(name)
)


@pytest.fixture(scope="module")
def elsewhere():
    """A process in which the imagined device is known."""
    with multiprocessing.get_context("spawn").Pool(1, imagined.register) as pool:
        yield pool


def recipe(name: str) -> tuple[TrainConfig, dict[str, str]]:
    """Training of one of the paper's recipes, and the modality of each task."""
    with contextlib.chdir(ROOT):
        tree = compose.compose(compose.read_params(), [f"+experiment=paper/{name}"])
        return few_rows(compose.resolve(tree, str(tree.stage_name), str(tree.item)))


def phase(name: str) -> tuple[TrainConfig, dict[str, str]]:
    """The same of a stage of the study."""
    return few_rows(configuration.load(ROOT / "build/config" / name))


def few_rows(values: dict) -> tuple[TrainConfig, dict[str, str]]:
    """One micro-batch with a row of each task, whose step is logged; all else that an update does is kept."""
    run = configuration.build(TrainConfig, values["train"], "train")
    streams = [
        dataclasses.replace(stream, **({"every": 1} if stream.every else {"rows": 1}))
        for stream in run.mixture.streams
    ]
    rows = sum(stream.rows for stream in streams)
    mixture = dataclasses.replace(run.mixture, streams=streams, rows=rows)
    media = {stream.task: values["tasks"][stream.task]["modality"] for stream in streams}
    return dataclasses.replace(run, mixture=mixture, accumulate=1, log_every=1, augment=None), media


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_waits(elsewhere, name: str) -> None:
    assert elsewhere.apply(imagined.waits, recipe(name)) == []


@pytest.mark.parametrize("name", PHASES)
def test_no_phase_waits(elsewhere, name: str) -> None:
    assert elsewhere.apply(imagined.waits, phase(name)) == []


LOSSES = {
    "encouraging": LossConfig(encouraging=True),
    "drop_worst": LossConfig(drop_worst=0.2),
    "constrained": LossConfig(constrained=True, smoothing=0.1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_no_rank_of_a_sharded_run_waits(elsewhere, loss: LossConfig) -> None:
    """Here with media that only the other rank shows."""
    config = standins.config({"image": 2}, loss=loss, log_every=1, examples="finetuning")
    assert elsewhere.apply(imagined.waits, (config, {"image": "image"}, True)) == []


@pytest.mark.parametrize("read", ["item", "tolist", "nonzero", "cpu"])
def test_a_wait_is_seen(elsewhere, read: str) -> None:
    assert elsewhere.apply(imagined.waits_of, (read,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_waits_on_a_gpu(name: str) -> None:
    config, media = recipe(name)
    made = imagined.trainer(config, media, torch.device("cuda"))
    batches = [made.collator(rows, 0) for rows in made.sampler.rows(0)]
    made._update(batches)  # allocates, chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        made._update(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
