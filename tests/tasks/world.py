"""A tiny world for tests of tasks, prediction and evaluation: rows, media, processor, model."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from unival import config
from unival.model.configuration import UnivalConfig
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import Answer, Record
from unival.tasks import TaskConfig, build
from unival.vocab import UnivalTokenizer

CONF = Path(__file__).parents[2] / "conf" / "task"
TASKS = sorted(path.stem for path in CONF.glob("*.yaml"))
COLOURS, SHAPES, SIZE = ("red", "green", "blue"), ("square", "circle"), 32


class Store:
    """Media made from their keys."""

    def image(self, key):
        return np.random.default_rng(int(key)).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)

    def image_size(self, key):
        return SIZE, SIZE

    def video(self, key, num_frames, rng=None):
        return np.stack([self.image(key)] * num_frames)

    def audio(self, key, sampling_rate):
        return np.random.default_rng(int(key)).normal(0, 0.1, sampling_rate).astype(np.float32)


def record(task, number):
    """One row; two rows share a medium."""
    rng = np.random.default_rng(number)
    colour, shape = COLOURS[number % 3], SHAPES[number % 2]
    other = COLOURS[(number + 1) % 3]
    modality = "video" if task.startswith("video") else "audio" if task.startswith("audio") else "image"
    row = {"id": f"{task}-{number}", modality: str(number // 2), "objects": (f"{colour} {shape}",)}
    if task in ("caption", "video_caption", "audio_caption"):
        name = f"{colour} {shape}"
        row["references"] = (f"a {name}.", f"One {name} is here", f"the {shape}, {colour}")
    elif task in ("grounding", "grounded_caption"):
        x, y = (float(value) for value in rng.integers(0, 12, 2))
        row |= {"text": f"the {colour} {shape}", "box": (x, y, x + 8 + number % 5, y + 12)}
        row["references"] = (f"the {colour} {shape}", f"a {colour} {shape}")
    elif task.startswith("entailment"):
        label = ("yes", "no", "maybe")[number % 3]
        row |= {"text": f"There is a {colour} {shape}", "answers": (Answer(label),), "form": "statement"}
        row["extra"] = {"premise": "A picture of shapes."}
    elif task.endswith("matching"):
        row |= {"text": f"a {colour} {shape}", "answers": (Answer(("yes", "no")[number % 2]),)}
    else:
        form, answer, wrong = ("color", colour, other) if number % 3 else ("count", str(number % 4), "7")
        question = f"what color is the {shape}?" if number % 3 else "How many shapes are there"
        row |= {"text": question, "answers": (Answer(answer), Answer(wrong, 0.3)), "form": form}
    return Record(**row)


def records(task, count=12, start=0):
    return [record(task, number) for number in range(start, start + count)]


def task_config(name, **changes):
    values = config.load(CONF / f"{name}.yaml")
    decode = values.get("decode", {})
    short = {"max_tokens": min(decode["max_tokens"], 6)}  # random weights seldom end by themselves
    values["decode"] = {**decode, **short, **changes.pop("decode", {})}
    return config.build(TaskConfig, {**values, **changes}, name)


def task(name, **changes):
    return build(name, task_config(name, **changes), processor(), Store(), records(name, 40, start=100))


@cache
def tokenizer():
    texts = [" yes no maybe what does the image video audio describe? region:"]
    for name in TASKS:
        for row in records(name, 60):
            texts += [f" {row.text.lower()}", *(f" {text}" for text in row.references)]
            texts += [f" {answer.text}" for answer in row.answers]
    return UnivalTokenizer.train(texts, 400, num_codes=0, num_bins=20)


@cache
def processor():
    return UnivalProcessor(
        tokenizer(), image_size=SIZE, video_frames=4, video_size=SIZE, sampling_rate=8000, audio_seconds=0.5
    )


@cache
def model(seed=0):
    """Random weights, wide enough apart that outputs differ from row to row."""
    values = config.load(CONF.parent / "model" / "tiny.yaml")["config"]
    values |= {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2}
    values |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    torch.manual_seed(seed)
    made = UnivalForConditionalGeneration(UnivalConfig(vocab_size=len(tokenizer()), **values))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    return made.eval()
