"""The commands that faults are injected into, and the small study they work on."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.faults import process
from unival.data import media, store
from unival.model import UnivalConfig, UnivalForConditionalGeneration

ROOT = Path(__file__).parents[2]
PHOTOS = 24
SETTINGS = {
    "edition": "smoke",
    "tasks": ["caption", "vqa"],
    "set": {
        "prepare": {"benchmark": {"options": {"sizes": {"smoke": {
            split: {"images": 40, "videos": 16, "sounds": 16} for split in ("train", "val", "test", "shift")
        }}}}},
        "pretrain": {"train": {"steps": 3, "checkpoint_every": 1, "log_every": 1}},
        "finetune": {"train": {"steps": 3, "checkpoint_every": 1, "log_every": 1,
                               "selection": {"every": 1, "rows": 8}}},
        "merge": {"merges": ["average", "task_arithmetic"], "refinetune": {"unival": {"steps": 1}},
                  "search": {"task_arithmetic": {"over": {"scale": [0.2, 0.4]}, "rows": 8}}},
        "evaluate": {"rows": 8, "shift_rows": 8, "pretrained_tasks": [], "merges": ["average"],
                     "shifted_merges": ["average"], "interpolation": {"rows": 8}},
        "ablate": {"studies": ["balancing"], "train": {"steps": 2, "checkpoint_every": 1}, "rows": 8},
        "report": {},
    },
}  # fmt: skip
"""Over params.yaml: the whole study in seconds."""
OFFICIAL = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 40,
    "max_target_positions": 30, "token_bucket_size": 8, "token_bucket_max_distance": 64,
    "image_bucket_size": 6, "code_image_size": 32,
    "image_encoder": {"type": "resnet", "depths": [1, 1, 1], "width": 4},
    "video_encoder": {"type": "resnext3d", "depths": [1, 1], "width": 8, "cardinality": 4, "stem_width": 4},
    "audio_encoder": {"type": "cnn14", "channels": [2, 4, 4, 4, 4, 4], "mels": 64, "n_fft": 1024, "hop": 320},
}  # fmt: skip
"""A model of the original's form."""
BEFORE = (
    ("prepare", "prepare"), ("pretrain", "pretrain/image_text"), ("pretrain", "pretrain/video_text"),
    ("finetune", "finetune/caption"), ("finetune", "finetune/vqa"), ("merge", "merge"),
    ("evaluate", "evaluate"), ("ablate", "ablate"), ("seeds", "seeds"),
)  # fmt: skip
DATA, BASE, MERGED = "data/processed/world", "models/pretrain/video_text", "models/merged"


@dataclass(frozen=True)
class Command:
    """One of `unival`, as it is typed in a folder that holds `inputs`."""

    words: tuple[str, ...]
    inputs: tuple[str, ...]
    """Of the study: files and folders."""
    faults: int
    """How many at the whole size: cheap commands have more."""
    environment: tuple[tuple[str, str], ...] = ()
    before: Callable[[], None] = lambda: None
    """Called in its process."""
    damaged: tuple[str, ...] = ()
    """Patterns of inputs with a digest: one that is cut or has a flipped bit may change no result."""
    cut: tuple[str, ...] = ()
    """Patterns of others, of which one that is cut may not pass for a whole one."""
    tracked: bool = False
    """It logs to MLflow."""
    prints: bool = False
    """What it prints is a result."""
    several: bool = False
    """It works in several processes."""
    logs: str = ""
    """The experiment of MLflow whose runs are compared, too: after kills alone."""


def _stage(name: str, path: str, faults: int, *inputs: str, **more: Any) -> Command:
    config = f"build/config/{path}.yaml"
    words = ("run", name, "--config", config)
    return Command(words, ("conf", config, *inputs), faults, **more)


def _small_shards() -> None:
    """A data set of a few photos has several shards, too."""
    store.ShardWriter.__init__.__defaults__ = (4096, False)


def _logged(command: Command, experiment: str, faults: int) -> Command:
    environment = (("UNIVAL_TRACKING", "on"),)
    return dataclasses.replace(
        command, environment=environment, logs=experiment, faults=faults, tracked=False
    )


RANKS: dict[str, Any] = {"environment": (("UNIVAL_RUNTIME", "auto"),), "several": True}
MODEL = "models/finetune/caption"
COMMANDS: dict[str, Command] = {
    "import": Command(
        ("import", "flickr8k", "--root", "photos", "--out", "imported", "--split", "train",
         "--max-rejected", "0"),
        ("photos",), 110, before=_small_shards, cut=("photos/*.jpg",),
    ),
    "convert export": Command(("convert", "export", MODEL, "made.pt"), (MODEL,), 40,
                              cut=(f"{MODEL}/*.safetensors",)),
    "convert official": Command(("convert", "official", "original.pt", "converted"), ("original.pt",), 50,
                                damaged=("original.pt",)),
    "merge run": Command(
        ("merge", "run", "recipe.yaml", "--model", f"a={MODEL}", "--model", "b=models/finetune/vqa",
         "--base", BASE, "--out", "merged"),
        ("recipe.yaml", "models/finetune", BASE), 60, cut=("models/finetune/*/*.safetensors",),
    ),
    "score": Command(("score", "predictions.jsonl", "--submission", "results.json"),
                     ("predictions.jsonl",), 40, prints=True),
    "predict": Command(("predict", MODEL, "photos", "--out", "answers.jsonl"), (MODEL, "photos"), 25,
                       prints=True),
    "export": Command(("export", "--split", f"{DATA}/val", "--task", "caption", "--out", "val.tsv"),
                      (DATA,), 30, damaged=(f"{DATA}/val/*.tar",)),
    "compose": Command(("compose",), ("conf", "params.yaml", "dvc.yaml"), 20),
    "prepare": _stage("prepare", "prepare", 25),
    "pretrain": _stage("pretrain", "pretrain/image_text", 30, DATA, damaged=(f"{DATA}/train/*",)),
    "pretrain, two ranks": _stage("pretrain", "pretrain/image_text", 15, DATA, **RANKS),
    "finetune": _stage("finetune", "finetune/caption", 40, DATA, BASE, tracked=True),
    "finetune, two ranks": _stage("finetune", "finetune/caption", 15, DATA, BASE, **RANKS),
    "merge": _stage("merge", "merge", 20, DATA, BASE, "models/finetune", tracked=True),
    "evaluate": _stage("evaluate", "evaluate", 20, DATA, BASE, "models/finetune", MERGED, tracked=True),
    "evaluate, two processes": _stage("evaluate", "evaluate", 6, DATA, BASE, "models/finetune", MERGED,
                                      **RANKS),
    "ablate": _stage("ablate", "ablate", 14, DATA, BASE),
    "seeds": _stage("seeds", "seeds", 10, DATA),
    "report": _stage("report", "report", 14, DATA, "reports"),
    "sweep": Command(
        ("sweep", "-m", "stage=merge", "set.merge.search.task_arithmetic.rows=4,8"),
        ("conf", "params.yaml", "dvc.yaml", DATA, BASE, "models/finetune"), 6, several=True,
    ),
}  # fmt: skip
SEEDS = Command(
    ("sweep", "-m", "stage=finetune", "item=caption", "seed=0,1"),
    ("conf", "params.yaml", "dvc.yaml", DATA, BASE), 0, several=True,
)  # fmt: skip
COMMANDS |= {
    f"{name}, in MLflow": _logged(COMMANDS.get(name, SEEDS), experiment, faults)
    for name, experiment, faults in (
        ("finetune", "finetune", 13),
        ("evaluate", "evaluate", 12),
        ("ablate", "ablate", 12),
        ("sweep of seeds", "finetune", 13),
    )
}


def make(study: Path, logs: Path) -> None:
    """The study from nothing, undisturbed, up to the report, and what else commands read.

    Raises:
        RuntimeError: a stage failed.
    """
    study.mkdir(parents=True)
    for name in ("conf", "dvc.yaml"):
        _copy(ROOT / name, study / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (study / "params.yaml").write_text(yaml.safe_dump(params | SETTINGS, sort_keys=False))
    _run(["compose"], study, logs)
    for stage, path in BEFORE:
        _run(["run", stage, "--config", f"build/config/{path}.yaml"], study, logs)
    rng = np.random.default_rng(0)
    captions = ["image,caption\n"]
    (study / "photos").mkdir()
    for number in range(PHOTOS):
        pixels = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        (study / f"photos/{number:02d}.jpg").write_bytes(media.encode_image(pixels, ".jpg"))
        captions.append(f"{number:02d}.jpg,photo {number}\n")
    (study / "photos/captions.txt").write_text("".join(captions))
    (study / "recipe.yaml").write_text("method: ties\n")
    shutil.copy(next((study / "reports/predictions").rglob("*.jsonl")), study / "predictions.jsonl")
    torch.manual_seed(0)
    UnivalForConditionalGeneration(UnivalConfig(**OFFICIAL)).save_pretrained(study / "small")
    _run(["convert", "export", "small", "original.pt"], study, logs)


def _run(words: list[str], study: Path, logs: Path) -> None:
    ended = process.run(words, study, logs)
    if ended.status:
        raise RuntimeError(f"unival {' '.join(words)}: exit {ended.status}\n{ended.said}")


def workspace(study: Path, folder: Path, inputs: Iterable[str]) -> None:
    """A folder with these parts of the study."""
    for name in inputs:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(study / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
