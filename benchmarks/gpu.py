"""Speed of the base model on a GPU: bf16, compiled, batch 64 at 384 px. Without a GPU it says so and ends.

    python benchmarks/gpu.py [--batch 64] [--image 384] [--repeats 20] [--peak-tflops 989]

One JSON line per row; times are medians of the seconds of a step after warm-up.

transformer    forward and backward of all but the image encoder, against its counted FLOPs at the dense bf16
               rate of the card (known for some, else `--peak-tflops`): 1 / ratio is the MFU
step           the whole training step; `ratio` against timm's ResNet-101 alone plus the transformer alone
generate       tokens per second of the best hypotheses, beam 5, 20 tokens, images encoded too
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import unival  # isort: skip  (mends torchvision's import where needed)
import timm
import torch
from torch import Tensor

from unival.engine.planning import devices
from unival.engine.planning.meter import Meter
from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.encoder import MediaTokens
from unival.model.generation import SearchOptions, beam_search
from unival.model.loss import sequence_loss

TOKENS, BEAMS = 20, 5


class Steps:
    """The pieces that are timed, on one batch of random images and tokens."""

    def __init__(self, batch: int, image: int, device: str) -> None:
        self.device = device
        config = UnivalConfig(image_encoder={"type": "timm", "name": "resnet101"})
        self.model = UnivalForConditionalGeneration(config).to(device).train()
        self.vision = timm.create_model("resnet101", features_only=True, out_indices=(4,)).to(device).train()
        self.vision = self.vision.to(memory_format=torch.channels_last)
        self.images = torch.randn(batch, 3, image, image, device=device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.source, self.target = torch.randint(4, 50000, (2, batch, TOKENS), device=device)
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.01, fused=True)
        with torch.no_grad(), self.autocast():
            ready = self.model.encoder.embed_media(self.images)
        self.ready = MediaTokens([ready.tokens[0].detach().requires_grad_()], ready.grids, ready.counts)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)

    def compile(self) -> None:
        self.model.forward = torch.compile(self.model.forward)
        self.vision.forward = torch.compile(self.vision.forward)

    def _backward(self, logits: Tensor) -> None:
        loss, count = sequence_loss(logits, self.target, smoothing=0.1)
        (loss / count).backward()

    def transformer(self) -> None:
        with self.autocast():
            output = self.model(self.source, media_tokens=self.ready, decoder_input_ids=self.target)
        self._backward(output.logits)
        self.model.zero_grad()

    def resnet(self) -> None:
        with self.autocast():
            features = self.vision(self.images)[0]
        features.backward(torch.ones_like(features))
        self.vision.zero_grad()

    def optimise(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()

    def step(self) -> None:
        with self.autocast():
            output = self.model(self.source, pixel_values=self.images, decoder_input_ids=self.target)
        self._backward(output.logits)
        self.optimise()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def generate(self) -> None:
        inputs = {"input_ids": self.source, "pixel_values": self.images}
        with self.autocast():
            beam_search(self.model, inputs, SearchOptions(BEAMS, TOKENS, min_tokens=TOKENS))


def seconds(work: Callable[[], None], repeats: int, wait: Callable[[], None]) -> float:
    """Median of a step's seconds."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(arguments: argparse.Namespace, device: str) -> None:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    name = torch.cuda.get_device_name() if device == "cuda" else device
    known = devices.known(name)
    peak = arguments.peak_tflops or (known and known.tflops)
    steps = Steps(arguments.batch, arguments.image, device)
    with Meter() as meter:
        steps.transformer()
    if device == "cuda":
        steps.compile()
    transformer = seconds(steps.transformer, arguments.repeats, wait)
    tflop = meter.flops.total() / 1e12
    line = row("transformer", transformer, peak and tflop / peak)
    tell({**line, "card": name, "tflop": tflop})
    resnet = seconds(steps.resnet, arguments.repeats, wait)
    whole = seconds(steps.step, arguments.repeats, wait)
    tell({**row("step", whole, resnet + transformer), "resnet": resnet})
    steps.model.eval()
    taken = seconds(steps.generate, arguments.repeats, wait)
    tell({**row("generate", taken, None), "tokens_per_s": arguments.batch * TOKENS / taken})


def tell(line: dict[str, float | str | None]) -> None:
    print(json.dumps(line), flush=True)  # what is measured stays, where the rest is stopped


def row(name: str, ours: float, baseline: float | None) -> dict[str, float | str | None]:
    """One line; the model FLOPs utilisation is 1 / ratio where the baseline is the card's dense bf16 rate."""
    ratio = ours / baseline if baseline else None
    return {"name": name, "ours": ours, "baseline": baseline, "ratio": ratio, "unit": "s"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only to try the script"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    torch.set_float32_matmul_precision("high")
    measure(arguments, arguments.device)


if __name__ == "__main__":
    assert unival
    main()
