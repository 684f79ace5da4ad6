"""A GPU checked and measured: does it compute what the CPU does, and how much of it is used?

    python benchmarks/gpu.py [--rows 64] [--repeats 20] [--peak-tflops 989] [--only step --only loader]
    python benchmarks/gpu.py --device cpu --small          tries the script where there is no GPU

The base model on images of 384 px in bfloat16. One JSON line for each row, when it is known: what is
measured stays where the rest is stopped. Seconds are medians after warm-up, `ratio` is `ours / baseline`.

machine        card, driver, PyTorch and commit
correct/*      float64 and float32 on the device against float64 on the CPU: relative error of logits, loss
               and worst gradient, share of generated tokens that differ; above `limit` the script ends with 1
memory         GiB of an update at its fullest, as PyTorch hands them out, against those of `unival plan`
transformer    forward and backward of all but the image encoder; `mfu` against the card's dense bfloat16 rate
resnet         timm's ResNet-101 alone (of the small model: its own image encoder)
step           the whole update; `ratio` against image encoder alone plus transformer alone; these three also
               compiled, as `train.compile` does
loader         the update on JPEG files that are read meanwhile, against the same on a batch that is there
generate       seconds of a beam search, beam 5, 20 tokens; `tokens_per_s` of the best hypotheses
merge          two models averaged on the device, against the CPU; `error` is the largest difference
"""

import argparse
import contextlib
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import unival  # isort: skip  (mends torchvision's import where needed)
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.loader import photo, stored, vocabulary
from tests.engine import standins
from unival import config as configuration
from unival.engine.batches.collate import Batch, Collator
from unival.engine.batches.loader import Loader, StepBatches
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.batches.rows import Rows
from unival.engine.batches.sampler import Sampler
from unival.engine.compiled import compile_parts
from unival.engine.objective import LossModule
from unival.engine.optim import build_optimizer
from unival.engine.planning import devices
from unival.engine.planning.meter import Meter
from unival.engine.planning.step import Training, measure, micro_batch
from unival.engine.settings import LossConfig, OptimizerConfig, TrainConfig
from unival.merging import merge
from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.encoder import MediaTokens
from unival.model.generation import SearchOptions, beam_search
from unival.model.processing import ProcessorSettings, UnivalProcessor

ROOT = Path(__file__).resolve().parents[1]
TOKENS, BEAMS = 20, 5
LIMITS = {"float64": 1e-9, "float32": 1e-3}
"""Relative error; float32 without TF32."""
Line = dict[str, Any]


def training(small: bool, rows: int) -> Training:
    """One micro-batch of images with a text each."""
    name = "tiny" if small else "base"
    values = configuration.load(ROOT / f"conf/model/{name}.yaml")
    settings = {k: v for k, v in values["config"].items() if k not in ("video_encoder", "audio_encoder")}
    size = 1000 if small else UnivalConfig.vocab_size
    mixture = MixtureConfig(rows, [StreamConfig("caption", rows)])
    adamw = OptimizerConfig(name="adamw", lr=1e-5, weight_decay=0.01, clip=1.0)
    loss = LossConfig(smoothing=0.1)
    train = TrainConfig(1, mixture, adamw, 0, loss=loss, precision="bfloat16")
    model = UnivalConfig.from_settings(settings, size, name)
    processor = ProcessorSettings(**values["processor"])
    return Training(train, model, processor, {"caption": "image"}, TOKENS, TOKENS)


def random_batch(job: Training, rows: int) -> Batch:
    """Of random pixels and tokens: a GPU computes faster on constants."""
    batch, generator = micro_batch(job, {"image": rows}), torch.Generator().manual_seed(0)
    batch.media["pixel_values"].normal_(generator=generator)
    for tensor in (batch.parts[0].inputs["input_ids"], batch.parts[0].labels_BT):
        tensor.random_(4, job.model.vocab_size, generator=generator)
    batch.parts[0].inputs["decoder_input_ids"][:, 1:] = batch.parts[0].labels_BT[:, :-1]
    return batch


class Steps:
    """Updates of the model, and its pieces."""

    def __init__(self, job: Training, batch: Batch, device: torch.device) -> None:
        torch.manual_seed(0)
        self.job, self.batch, self.device = job, batch.to(device), device
        self.model = UnivalForConditionalGeneration(job.model).to(device).train()
        self.module = LossModule(self.model, job.train.loss, 1)
        self.optimizer = build_optimizer(job.train.optimizer, self.model)
        name = (job.model.image_encoder or {}).get("name")
        own = self.model.encoder.media["image"].backbone
        vision = timm.create_model(name, features_only=True, out_indices=(4,)) if name else copy.deepcopy(own)
        self.vision: nn.Module = vision.to(device, memory_format=torch.channels_last).train()
        with torch.no_grad(), self.autocast():
            ready = self.model.encoder.embed_media(**self.batch.media)
        tokens = [tokens.requires_grad_() for tokens in ready.tokens]
        self.ready = MediaTokens(tokens, ready.grids, ready.counts)

    def autocast(self) -> torch.autocast:
        """As training does in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def compile(self) -> None:
        """What `train.compile` compiles, and timm's network as a whole."""
        compile_parts(self.module)
        self.vision.compile()

    def transformer(self) -> None:
        """Forward and backward of all but the image encoder."""
        (part,) = self.batch.parts
        with self.autocast():
            logits_BTV = self.model(**part.inputs, media_tokens=self.ready, use_cache=False).logits
            loss = self.module.loss(logits_BTV, part, 0.0)
        (loss / part.num_tokens).backward()
        self.model.zero_grad()

    def resnet(self) -> None:
        """Forward and backward of the image encoder alone."""
        with self.autocast():
            features = self.vision(self.batch.media["pixel_values"])
        features = features[0] if isinstance(features, list) else features
        features.backward(torch.ones_like(features))
        self.vision.zero_grad()

    def step(self, batch: Batch | None = None) -> None:
        """A whole update."""
        batch = batch or self.batch
        with self.autocast():
            loss, _ = self.module(batch, False, 0.0)
        (loss / batch.num_tokens()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Bench:
    """The checks, each of which gives its lines."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
        known = devices.known(self.name)
        self.peak = options.peak_tflops or (known and known.tflops)
        self.job = training(options.small, options.rows)

    def steps(self) -> Steps:
        """With a model of its own."""
        return Steps(self.job, random_batch(self.job, self.options.rows), self.device)

    def wait(self) -> None:
        """Until the device has done all that is queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int | None = None) -> float:
        """Median of what `work` takes, after three rounds."""
        taken = []
        for number in range(3 + (repeats or self.options.repeats)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if number >= 3:
                taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def utilisation(self, tflop: float, seconds: float) -> Line:
        """TFLOP/s, and their share of the card's rate where that is known."""
        rate = tflop / seconds
        return {"tflop": tflop, "tflop_per_s": rate, "mfu": self.peak and rate / self.peak}

    def machine(self) -> Iterator[Line]:
        """What is measured."""
        yield {
            "card": self.name,
            "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "torch": torch.__version__,
            "commit": output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
            "peak_tflops": self.peak,
        }

    def correct(self) -> Iterator[Line]:
        """The device's results against the CPU's, without dropout."""
        settings = copy.deepcopy(self.job.model)
        settings.dropout = settings.encoder_drop_path = settings.decoder_drop_path = 0.0
        batch = random_batch(self.job, 4)
        torch.manual_seed(0)
        model = UnivalForConditionalGeneration(settings)
        wanted = self.results(model, batch, torch.device("cpu"), torch.float64)
        tf32(False)
        for kind, limit in LIMITS.items():
            found = self.results(model, batch, self.device, getattr(torch, kind))
            for name, value in found.items():
                if name == "tokens" and kind == "float32":
                    continue  # of untrained weights the best two may be as good as each other
                error = worst(value, wanted[name])
                yield {"name": f"correct/{name}", "type": kind, "error": error, "limit": limit}
        tf32(True)

    def results(
        self, model: UnivalForConditionalGeneration, batch: Batch, device: torch.device, dtype: torch.dtype
    ) -> dict[str, list[Tensor]]:
        """Logits, loss, gradients and generated tokens of a copy of the model."""
        model = copy.deepcopy(model).to(device, dtype).train()
        module = LossModule(model, self.job.train.loss, 1)
        media = {name: values.to(dtype) for name, values in batch.media.items()}
        batch = Batch(media, batch.parts, batch.num_examples, []).to(device)
        (part,) = batch.parts
        loss, _ = module(batch, False, 0.0)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            logits_BTV = model.eval()(**part.inputs, **batch.media).logits
            inputs = {k: v for k, v in part.inputs.items() if k != "decoder_input_ids"} | batch.media
            tokens = beam_search(model, inputs, SearchOptions(BEAMS, TOKENS)).tokens
        found = {"logits": [logits_BTV], "loss": [loss.detach()], "gradients": gradients, "tokens": [tokens]}
        return {name: [tensor.cpu() for tensor in tensors] for name, tensors in found.items()}

    def memory(self) -> Iterator[Line]:
        """Of an update in eager mode; a CPU does not say what it had."""
        media = {"image": self.options.rows}
        wanted = (self.job.train.gradient_checkpointing,)
        ((once, _),) = measure(self.job, media, accumulates=False, checkpointing=wanted)
        planned = sum(once.peak.values()) / devices.GIB
        measured = None
        if self.device.type == "cuda":
            steps = self.steps()
            del steps.vision, steps.ready
            steps.step()
            torch.cuda.reset_peak_memory_stats()
            steps.step()
            measured = torch.cuda.max_memory_allocated() / devices.GIB
        yield row("memory", measured, planned, "GiB")

    def step(self) -> Iterator[Line]:
        """Pieces and whole, eager and compiled."""
        steps = self.steps()
        counted = {}
        for name in ("transformer", "step"):
            with Meter() as meter:
                getattr(steps, name)()
            counted[name] = meter.flops.total() / 1e12
        for compiled in (False, True):
            if compiled:
                steps.compile()
            taken: dict[str, float] = {}
            for name in ("transformer", "resnet", "step"):
                taken[name] = self.seconds(getattr(steps, name))
                alone = taken["transformer"] + taken["resnet"] if name == "step" else None
                line = {**row(name, taken[name], alone, "s"), "compiled": compiled}
                yield line | (self.utilisation(counted[name], taken[name]) if name in counted else {})

    def loader(self) -> Iterator[Line]:
        """Updates on files that are read, decoded and resized meanwhile."""
        rows, repeats = self.options.rows, 3 + self.options.repeats
        steps = self.steps()
        with tempfile.TemporaryDirectory() as folder:
            files = {f"k{number}": photo(number % 16) for number in range(4 * rows)}
            records, store = stored(folder, "image", files)
            processor = UnivalProcessor(vocabulary(), **vars(self.job.processor))
            data = {"caption": Rows(standins.Task(), records, store)}
            mixture = Mixture(self.job.train.mixture, {"caption": len(records)})
            collator = Collator(data, processor, 0, "finetuning")
            batches = StepBatches(Sampler(mixture, 0), collator, repeats + 1, 0, 1, 1)
            loader = Loader(batches, 0, self.options.workers)
            source = iter(loader)
            there = next(source)[0].to(self.device)
            alone = self.seconds(lambda: steps.step(there))
            loader.waited = 0.0
            ours = self.seconds(lambda: steps.step(next(source)[0].to(self.device)))
            more = {"waited_s": loader.waited, "workers": self.options.workers}
            yield row("loader", ours, alone, "s") | more

    def generate(self) -> Iterator[Line]:
        """A beam search, images encoded too."""
        steps = self.steps()
        model, (part,) = steps.model.eval(), steps.batch.parts
        inputs = {k: v for k, v in part.inputs.items() if k != "decoder_input_ids"} | steps.batch.media

        @torch.no_grad()
        def search() -> None:
            with steps.autocast():
                beam_search(model, inputs, SearchOptions(BEAMS, TOKENS, min_tokens=TOKENS))

        taken = self.seconds(search, min(5, self.options.repeats))
        yield row("generate", taken, None, "s") | {"tokens_per_s": self.options.rows * TOKENS / taken}

    def merge(self) -> Iterator[Line]:
        """An average of two models, files and digests included."""
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / name for name in "ab"}
            for seed, path in enumerate(paths.values()):
                torch.manual_seed(seed)
                UnivalForConditionalGeneration(self.job.model).save_pretrained(path)
            taken, merged = {}, {}
            for kind in dict.fromkeys(("cpu", self.options.device)):
                out = Path(folder) / f"merged-{kind}"
                start = time.perf_counter()
                merge({"method": "average", "models": list(paths)}, paths, None, out, device=kind)
                taken[kind] = time.perf_counter() - start
                merged[kind] = load_file(next(out.glob("*.safetensors")))
            ours, there = merged[self.options.device], merged["cpu"]
            error = max(float((tensor - there[name]).abs().max()) for name, tensor in ours.items())
            line = row("merge", taken[self.options.device], taken["cpu"], "s")
            yield line | {"error": error, "limit": 1e-6}


CHECKS = ("machine", "correct", "memory", "step", "loader", "generate", "merge")


def tf32(allowed: bool) -> None:
    """Whether products and convolutions in float32 may round to 10 bits."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def worst(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Norm of the difference over the norm, or over a thousandth of that of all where it is less: gradients
    of keys' biases are rounding. Of tokens the share that differs."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        return 1.0
    if not wanted[0].is_floating_point():
        return float((found[0] != wanted[0]).float().mean())
    least = 1e-3 * nn.utils.get_total_norm(wanted)
    pairs = zip(found, wanted, strict=True)
    return max(float((one.double() - other).norm() / max(other.norm(), least)) for one, other in pairs)


def row(name: str, ours: float | None, baseline: float | None, unit: str) -> Line:
    """A line with a figure and what it is held against."""
    ratio = ours / baseline if ours and baseline else None
    return {"name": name, "ours": ours, "baseline": baseline, "ratio": ratio, "unit": unit}


def output(*words: str) -> str | None:
    """What a command prints; None where it is not there."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    return None


def run(options: argparse.Namespace) -> bool:
    """All checks, of which none begins after the limit; whether every one is right."""
    bench, started, right = Bench(options), time.perf_counter(), True
    for name in options.only or CHECKS:
        if time.perf_counter() - started > options.limit:
            tell({"name": name, "skipped": f"{options.limit:g} s are over"})
            continue
        try:
            for line in getattr(bench, name)():
                tell({"name": name, **line})
                right &= line.get("error", 0.0) <= line.get("limit", float("inf"))
        except Exception as error:  # the others may still tell something
            tell({"name": name, "failed": f"{type(error).__name__}: {error}"})
            right = False
    return right


def tell(line: Line) -> None:
    """Print a line now: what is measured stays, where the rest is stopped."""
    print(json.dumps(line), flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only to try the script")
    add("--small", action="store_true", help="the tiny model, few rows")
    add("--rows", type=int)
    add("--repeats", type=int)
    add("--workers", type=int, default=8, help="processes that load data (default 8)")
    add("--peak-tflops", type=float, help="dense bfloat16 rate of a card that is not known")
    add("--only", choices=CHECKS, action="append")
    add("--limit", type=float, default=480, help="seconds after which no further check begins (default 480)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    options.rows = options.rows or (2 if options.small else 64)
    options.repeats = options.repeats or (1 if options.small else 20)
    tf32(True)
    if options.device == "cpu":  # traced all the same, but a CPU takes minutes to compile
        torch.compiler.set_stance("default", force_backend="eager")
    sys.exit(not run(options))


if __name__ == "__main__":
    assert unival
    main()
