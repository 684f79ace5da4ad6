"""Speed of the base model against what a user would otherwise take, in one interleaved run.

The yardstick is timm's ResNet-101 in front of transformers' BART-base, on the same shapes: batch 4, images
of 224 px, 20 source and 20 target tokens, beam 5, one thread. Each row runs in a process of its own, which
holds both models and alternates between them; `ours` and `baseline` are the fastest CPU seconds of each,
`ratio` ours over the yardstick's. `floor` is the counted arithmetic over the measured matrix rate. Without an
argument the bfloat16 rows are left out on a CPU without instructions for them (AVX-512 BF16, AMX).

    python benchmarks/model.py            all rows, JSON lines on standard output
    python benchmarks/model.py train/mixed    one row
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import unival  # isort: skip  (mends torchvision's import where needed)
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.generation import SearchOptions, beam_search
from unival.model.linear import linear
from unival.model.loss import sequence_loss

ROWS = ("train/float32", "train/bfloat16", "generate/float32", "generate/bfloat16", "train/mixed")
BATCH, IMAGE, TOKENS, BEAMS, VOCABULARY = 4, 224, 20, 5, 59457
SECONDS, REPEATS = 60.0, 7  # a row stops after either
IMAGE_SPEC = {"type": "timm", "name": "resnet101"}
VIDEO_SPEC = {"type": "resnext3d"}


def tokens(rows: int) -> Tensor:
    return torch.randint(4, 50000, (rows, TOKENS))


class Ours:
    """A training step and a generation of our model."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.model = UnivalForConditionalGeneration(UnivalConfig(image_encoder=IMAGE_SPEC))
        self.dtype = dtype
        self.inputs = {"input_ids": tokens(BATCH), "pixel_values": torch.randn(BATCH, 3, IMAGE, IMAGE)}
        self.targets = tokens(BATCH)
        self.options = SearchOptions(BEAMS, max_tokens=TOKENS, min_tokens=TOKENS, no_repeat_ngram=3)

    def prepare_training(self) -> None:
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def forward_backward(self) -> None:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(**self.inputs, decoder_input_ids=self.targets).logits
        loss, count = sequence_loss(logits, self.targets, smoothing=0.1)
        (loss / count).backward()

    def train(self) -> None:
        self.forward_backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def prepare_generation(self) -> None:
        self.model.eval().requires_grad_(False).to(self.dtype)
        self.inputs["pixel_values"] = self.inputs["pixel_values"].to(self.dtype)

    def generate(self) -> None:
        beam_search(self.model, self.inputs, self.options)


class Yardstick:
    """The same work by timm's ResNet-101 and transformers' BART-base."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.vision = timm.create_model("resnet101", features_only=True, out_indices=(4,))
        self.project = torch.nn.Linear(2048, 768)
        config = BartConfig(
            vocab_size=VOCABULARY,
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            dropout=0.1,
            attention_dropout=0.0,
            forced_eos_token_id=None,
        )
        self.bart = BartForConditionalGeneration(config)
        self.modules = torch.nn.ModuleList([self.vision, self.project, self.bart])
        self.dtype = dtype
        self.images, self.source, self.targets = (
            torch.randn(BATCH, 3, IMAGE, IMAGE),
            tokens(BATCH),
            tokens(BATCH),
        )

    def embed(self) -> Tensor:
        visual = self.project(self.vision(self.images)[0].flatten(2).transpose(1, 2))
        return torch.cat([visual, self.bart.get_input_embeddings()(self.source)], 1)

    def prepare_training(self) -> None:
        self.modules.train()
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), lr=1e-5, weight_decay=0.01)

    def train(self) -> None:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            logits = self.bart(inputs_embeds=self.embed(), decoder_input_ids=self.targets).logits
        logits, targets = logits.flatten(0, 1).float(), self.targets.flatten()
        torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def prepare_generation(self) -> None:
        self.modules.eval().to(self.dtype)
        self.images = self.images.to(self.dtype)

    @torch.no_grad()
    def generate(self) -> None:
        states = self.bart.model.encoder(inputs_embeds=self.embed()).last_hidden_state
        self.bart.generate(
            encoder_outputs=BaseModelOutput(states),
            num_beams=BEAMS,
            min_new_tokens=TOKENS,
            max_new_tokens=TOKENS,
            no_repeat_ngram_size=3,
            decoder_start_token_id=0,
        )


def seconds(work: Callable[[], None]) -> float:
    """CPU seconds: with one thread on an idle core the wall's, and other programs disturb them less."""
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(*works: Callable[[], None]) -> list[list[float]]:
    """Seconds of each, taken in turns until the time or the repeats are used up (twice at least)."""
    taken: list[list[float]] = [[] for _ in works]
    start = time.perf_counter()
    while len(taken[0]) < 2 or (len(taken[0]) < REPEATS and time.perf_counter() - start < SECONDS):
        for work, times in zip(works, taken, strict=True):
            times.append(seconds(work))
    return taken


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOPs per second of a large product on this core, the best of a few."""
    a, b = torch.randn(768, 1024).to(dtype), torch.randn(3072, 1024).to(dtype)
    return 2 * 768 * 1024 * 3072 / min(seconds(lambda: linear(a, b)) for _ in range(12))


def flops_of_linear(states: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(states) * weight[0]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(row: str) -> dict[str, Any]:
    """A row `train/*` or `generate/*`."""
    kind, precision = row.split("/")
    dtype = getattr(torch, precision)
    ours = Ours(dtype)
    work = ours.train if kind == "train" else ours.generate
    ours.prepare_training() if kind == "train" else ours.prepare_generation()
    # not known to PyTorch: what our linear maps call
    counted = {torch.ops.mkldnn._linear_pointwise: flops_of_linear}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    work()
    memory = peak_mib()  # before the yardstick exists
    yardstick = Yardstick(dtype)
    yardstick.prepare_training() if kind == "train" else yardstick.prepare_generation()
    other = yardstick.train if kind == "train" else yardstick.generate
    other()
    rate = matrix_rate(dtype)
    mine, theirs = interleaved(work, other)
    return {
        "name": row,
        "ours": min(mine),
        "baseline": min(theirs),
        "ratio": min(mine) / min(theirs),
        "unit": "s",
        "floor": counter.get_total_flops() / rate,
        "ratio_of_medians": statistics.median(mine) / statistics.median(theirs),
        "repeats": len(mine),
        "tflop": counter.get_total_flops() / 1e12,
        "matrix_gflops": rate / 1e9,
        "peak_mib": memory,
    }


def mixed() -> dict[str, Any]:
    """Forward and backward of half image, half video rows, two examples per medium: each medium encoded once,
    against two single-modality passes that encode each example's medium."""
    model = UnivalForConditionalGeneration(
        UnivalConfig(image_encoder=IMAGE_SPEC, video_encoder=VIDEO_SPEC)
    ).train()
    images, videos = torch.randn(2, 3, IMAGE, IMAGE), torch.randn(2, 3, 8, IMAGE, IMAGE)
    source, target = tokens(8), tokens(8)
    none, pairs = torch.full((4, 1), -1), torch.tensor([0, 0, 1, 1])[:, None]
    indices = {"pixel_index": torch.cat([pairs, none]), "video_index": torch.cat([none, pairs])}

    def finish(rows: slice, **media: Any) -> None:
        logits = model(input_ids=source[rows], decoder_input_ids=target[rows], **media).logits
        loss, count = sequence_loss(logits, target[rows], smoothing=0.1)
        (loss / count).backward()

    def ours() -> None:
        finish(slice(0, 8), pixel_values=images, video_values=videos, **indices)
        model.zero_grad()

    def baseline() -> None:
        finish(slice(0, 4), pixel_values=images.repeat_interleave(2, 0))
        finish(slice(4, 8), video_values=videos.repeat_interleave(2, 0))
        model.zero_grad()

    def media() -> None:
        embedded = model.encoder.embed_media(images, videos)
        torch.autograd.backward(embedded.tokens, [torch.ones_like(part) for part in embedded.tokens])
        model.zero_grad()

    with torch.no_grad():
        ready = model.encoder.embed_media(images, videos)
    for part in ready.tokens:
        part.requires_grad_()

    def rest() -> None:
        finish(slice(0, 8), media_tokens=ready, **indices)
        model.zero_grad()

    ours(), baseline()
    times = [min(taken) for taken in interleaved(ours, baseline, media, rest)]
    possible = (2 * times[2] + times[3]) / (times[2] + times[3])
    return {
        "name": "train/mixed",
        "ours": times[0],
        "baseline": times[1],
        "ratio": times[0] / times[1],
        "unit": "s",
        "C": times[2],
        "X": times[3],
        "possible": possible,
        "gained": times[1] / times[0],
        "share_of_possible": times[1] / times[0] / possible,
    }


def rounded(result: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}


def all_rows() -> Iterator[str]:
    for row in ROWS:
        if row.endswith("bfloat16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            reason = "this CPU emulates bfloat16, many times slower than float32: name the row to run it"
            nothing = {"ours": None, "baseline": None, "ratio": None}
            yield json.dumps({"name": row, **nothing, "unit": f"skipped: {reason}"})
            continue
        done = subprocess.run([sys.executable, __file__, row], check=True, stdout=subprocess.PIPE, text=True)
        yield done.stdout.strip().splitlines()[-1]


def main() -> None:
    if len(sys.argv) == 1:
        for line in all_rows():
            print(line, flush=True)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    row = sys.argv[1]
    print(json.dumps(rounded(mixed() if row == "train/mixed" else compare(row))))


if __name__ == "__main__":
    assert unival
    main()
