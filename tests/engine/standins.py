"""A tiny model, task and media store with the interfaces of the real ones, to test the engine alone."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from unival.engine.batches.mixture import MixtureConfig, StreamConfig
from unival.engine.batches.rows import Rows
from unival.engine.settings import OptimizerConfig, TrainConfig
from unival.record import Record
from unival.tasks import TaskConfig

COLOURS = ("red", "green", "blue", "grey")
WORDS = ("<s>", "<pad>", "</s>", "<unk>", *COLOURS, "is", "it", "what", "yes", "no", "and", "low", "high")


class Tokenizer:
    """Words to numbers."""

    bos_token_id, pad_token_id, eos_token_id = 0, 1, 2

    def encode_text(self, text):
        return [WORDS.index(word) if word in WORDS else 3 for word in text.split()]

    def __len__(self):
        return len(WORDS)


class Processor:
    """Media to tensors."""

    sampling_rate, video_frames = 100, 2

    def __init__(self):
        self.tokenizer = Tokenizer()

    def fit_image(self, pixels):
        return pixels

    def fit_video(self, frames):
        return frames

    def fit_audio(self, wave, rng=None):
        return wave

    def normalise(self, media):
        return torch.from_numpy(np.stack(media)).movedim(-1, 1).float() / 127.5 - 1

    def save_pretrained(self, folder):
        (Path(folder) / "processor.json").write_text("{}\n")


class Store:
    """Media made from their keys: `<colour>-<number>`."""

    def __init__(self):
        self.reads = 0

    def image(self, key):
        self.reads += 1
        colour, number = key.split("-")
        noise = np.random.default_rng(int(number)).integers(0, 60, (8, 8, 3))
        tint = np.eye(4, 3, dtype=np.int64)[COLOURS.index(colour)] * 190
        return (noise + tint).astype(np.uint8)

    def picture(self, key):
        return self.image(key)

    def video(self, key, num_frames, rng=None):
        offset = 0 if rng is None else int(rng.integers(0, 40))
        return np.stack([np.minimum(self.image(key), 215) + offset] * num_frames).astype(np.uint8)

    def encoded_size(self, key):
        return 100_000

    def lacking(self):
        return ""

    def audio(self, key, sampling_rate):
        colour, number = key.split("-")
        noise = np.random.default_rng(int(number)).normal(0, 0.1, sampling_rate)
        return (noise + COLOURS.index(colour)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Example:
    prompt: str
    target: str
    decoder_prompt: str = ""
    weight: float = 1.0
    media: tuple = ()
    skip_target_tokens: int = 0


class Task:
    """Name the colour; then say whether a colour is the right one."""

    config = TaskConfig("captioning", "image", "what is it", "exact")

    def __init__(self, modality="image"):
        self.modalities = (modality,)

    def finetuning(self, record, rng):
        return [
            Example(
                "what is it", record.references[0], weight=0.5 + rng.random(), media=tuple(record.media())
            )
        ]

    def training(self, record, rng):
        colour = record.references[0].split()[0]
        asked = colour if rng.random() < 0.5 else COLOURS[rng.integers(4)]
        match = Example(f"is it {asked}", "yes" if asked == colour else "no", media=tuple(record.media()))
        return [*self.finetuning(record, rng), match]


class NoConfig:
    def to_json_file(self, path):
        pass


class Model(nn.Module):
    """Bag of prompt words and mean media features, and a decoder that sees the last token only."""

    learned = frozenset({"audio"})

    def __init__(self, width=16, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), width)
        self.image_encoder = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.video_encoder = nn.Conv3d(3, width, (1, 3, 3), 2)
        self.audio_encoder = nn.Linear(Processor.sampling_rate, width)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, width)
        self.lm_head = nn.Linear(width, len(WORDS), bias=False)
        self.lm_head.weight = self.embed.weight
        self.config = NoConfig()

    @property
    def encoder(self):
        """Where the media are embedded."""
        return self

    @property
    def media(self):
        """The encoder of each modality."""
        return {"image": self.image_encoder, "video": self.video_encoder, "audio": self.audio_encoder}

    def embed_media(self, **values):
        encoders = {
            "pixel": self.image_encoder,
            "video": self.video_encoder,
            "audio": self.audio_encoder,
        }
        features = {}
        for name, media in values.items():
            kind = name.removesuffix("_values")
            found = encoders[kind](media)
            features[kind] = found.flatten(2).mean(2) if found.dim() > 2 else found
        return features

    def forward(self, input_ids, attention_mask, decoder_input_ids, media_tokens, use_cache=False, **index):
        state_BD = (self.embed(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(
            1, keepdim=True
        )
        for name, index_BK in index.items():
            features_MD = media_tokens[name.removesuffix("_index")]
            used_BK = (index_BK >= 0)[..., None]
            state_BD = state_BD + (features_MD[index_BK.clamp(min=0)] * used_BK).sum(1)
        state_BTD = state_BD[:, None] + self.embed(decoder_input_ids)
        state_BTD = self.dropout(torch.tanh(self.hidden(state_BTD)))
        return SimpleNamespace(logits=self.lm_head(state_BTD))

    def save_pretrained(self, folder):
        from safetensors.torch import save_file

        from unival.engine.checkpoint import unique_tensors

        save_file(unique_tensors(self), Path(folder) / "model.safetensors")


def model(seed=0, **options):
    """A model with seeded weights."""
    torch.manual_seed(seed)
    return Model(**options)


class TinyProcessor(Processor):
    """Media of the size that the tiny model wants."""

    def fit_image(self, pixels):
        return pixels.repeat(6, 0).repeat(6, 1)

    def fit_video(self, frames):
        return frames.repeat(4, 0).repeat(5, 1).repeat(5, 2)

    def fit_audio(self, wave, rng=None):
        return np.tile(wave, 96)


def tiny(seed=0, **changes):
    """The real model at its smallest, with seeded weights; `changes`: fields of its configuration."""
    from unival import config
    from unival.model.configuration import UnivalConfig
    from unival.model.modeling import UnivalForConditionalGeneration

    values = config.load(Path(__file__).parents[2] / "conf/model/tiny.yaml")["config"]
    torch.manual_seed(seed)
    return UnivalForConditionalGeneration(UnivalConfig(vocab_size=len(WORDS), **(values | changes)))


def records(kind, count):
    """Rows of unequal target length; every third row of `mixed` has an image and audio."""
    rows = []
    for number in range(count):
        colour = COLOURS[number % 4]
        key = f"{colour}-{number}"
        media = (
            {kind: key} if kind != "mixed" else {"image": key, **({"audio": key} if number % 3 == 0 else {})}
        )
        text = " ".join([colour, *["and", "it"][: number % 3]])
        rows.append(Record(id=f"{kind}{number}", references=(text,), **media))
    return rows


def sources(**sizes):
    """Rows of each kind: `sources(image=20, video=9)`."""
    store = Store()
    return {kind: Rows(Task(kind), records(kind, count), store) for kind, count in sizes.items()}


def config(streams, balanced=True, **changes):
    """A short run; `streams`: task -> rows a step."""
    quotas = [StreamConfig(task, rows) for task, rows in streams.items()]
    mixture = MixtureConfig(sum(streams.values()), quotas, balanced)
    values = {
        "steps": 12,
        "mixture": mixture,
        "optimizer": OptimizerConfig(lr=0.01, warmup=0.2),
        "seed": 7,
        "examples": "pretraining",
        "checkpoint_every": 4,
        "log_every": 3,
        **changes,
    }
    return TrainConfig(**values)
