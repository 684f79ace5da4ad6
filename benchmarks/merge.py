"""Speed and memory of merging four float32 models of 0.258 billion parameters, beside their baselines.

    PYTHONPATH=src python benchmarks/merge.py [--folder <scratch>] [--rounds 3] [--limit 540]

Writes six models (6 GB) into a scratch folder, runs every job in a fresh process, interleaved round by round
so that all meet the same machine, and prints one JSON line per row: name, ours, baseline, ratio, unit.
Ratios are medians over the rounds of the ratio within a round. Rows:

linear/vs_floor            wall: average of four against reading four files, adding and writing one; both
                           reserve the room and sync, ours hashes the output with SHA-256 on top
linear/cpu_vs_floor        the same in CPU time
linear/main_vs_floor       the same without our thread that writes and hashes: what remains with a second core
task_arithmetic/vs_floor   wall: the same floor with five inputs
ties/vs_linear             CPU: exact TIES (threshold over the whole model) against our average
dare_ties/vs_linear        CPU
*/memory_above_import_mib  peak memory above that of `import torch`
linear|ties/vs_mergekit    wall, and */cpu_vs_mergekit CPU, against mergekit, one run each, where its command
                           `mergekit-pytorch` is on the path or given (a virtual environment of its own
                           serves: pip install mergekit==0.1.5). It is stopped when all has taken `--limit`
                           seconds; the ratio is then an upper bound
"""

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("a", "b", "c", "d")
CHUNK = 1 << 18
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"method": "average"},
    "task_arithmetic": {"method": "task_arithmetic"},
    "ties": {"method": "ties"},
    "dare_ties": {"method": "dare_ties"},
}
MERGEKIT = {"linear": "merge_method: linear\nparameters: {weight: 0.25}\n",
            "ties": "merge_method: ties\nparameters: {weight: 1.0, density: 0.2}\n"}  # fmt: skip


def shapes(parameters: float) -> dict[str, tuple[int, ...]]:
    """An encoder-decoder of width 768 with a large vocabulary, filled up to so many parameters."""
    found: dict[str, tuple[int, ...]] = {"shared.weight": (59457, 768)}
    for stack in ("encoder", "decoder"):
        for layer in range(6):
            start = f"{stack}.layers.{layer}"
            for part in ("q", "k", "v", "out"):
                found[f"{start}.{part}.weight"], found[f"{start}.{part}.bias"] = (768, 768), (768,)
            found[f"{start}.fc1.weight"], found[f"{start}.fc2.weight"] = (3072, 768), (768, 3072)
    number = 0
    while sum(math.prod(shape) for shape in found.values()) < parameters:
        found[f"encoder.media.{number}.weight"] = (1024, 1024)
        number += 1
    return found


def generate(folder: Path, parameters: float) -> None:
    """Write the base and four models near it."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    base = {
        name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes(parameters).items()
    }
    for name in ("base", *NAMES):
        scale = 0.0 if name == "base" else 0.001
        state = {k: v + scale * torch.randn(v.shape, generator=generator) for k, v in base.items()}
        (folder / name).mkdir()
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "none"}')


def floor(inputs: list[Path], out: Path) -> None:
    """Read, add, write with re-used buffers: what any merge has to do."""
    import numpy as np

    handles = [os.open(path, os.O_RDONLY) for path in inputs]
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    size = inputs[0].stat().st_size
    os.posix_fallocate(target, 0, size)
    buffers = [np.empty(CHUNK, np.float32) for _ in inputs]
    for offset in range(0, size, CHUNK * 4):
        count = min(CHUNK * 4, size - offset)
        for handle, buffer in zip(handles, buffers, strict=True):
            os.preadv(handle, [memoryview(buffer.data).cast("B")[:count]], offset)
        total = buffers[0][: count // 4]
        for buffer in buffers[1:]:
            total += buffer[: count // 4]
        os.pwrite(target, memoryview(total.data).cast("B"), offset)
    os.fsync(target)
    for handle in (*handles, target):
        os.close(handle)


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return math.nan


def job(kind: str, folder: Path, threads: int) -> dict[str, float]:
    """One measurement, in this process: seconds of wall and CPU, MiB above `import torch`."""
    import torch  # noqa: F401  (its memory is not ours)

    from unival.merging import Recipe, merge

    before, out = peak_mib(), folder / "out"
    started, used, main = time.perf_counter(), time.process_time(), time.thread_time()
    if kind.startswith("floor"):
        names = NAMES if kind == "floor4" else ("base", *NAMES)
        floor([folder / name / "model.safetensors" for name in names], out)
    else:
        inputs: dict[str, Path | str] = {name: folder / name for name in NAMES}
        base = None if kind == "linear" else folder / "base"
        merge(Recipe(models=NAMES, **RECIPES[kind]), inputs, base, out, threads=threads, chunk=CHUNK)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    return {"wall": wall, "cpu": cpu, "main": time.thread_time() - main, "memory": peak_mib() - before}


def run_job(kind: str, folder: Path, threads: int) -> dict[str, float]:
    """`job` in a fresh process."""
    words = [sys.executable, __file__, "--job", kind, "--folder", str(folder), "--threads", str(threads)]
    environment = {**os.environ, "UNIVAL_HASH_CACHE": str(folder / "hashes.json"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    remove(folder / "out")
    return dict(json.loads(done.stdout))


def run_mergekit(command: str, kind: str, folder: Path, seconds: float) -> tuple[float, float, bool]:
    """Wall and CPU seconds of mergekit's command on the same files; whether it ended within `seconds`."""
    file = "model.safetensors"
    models = "".join(f"  - model: {folder / name / file}\n" for name in NAMES)
    base = "" if kind == "linear" else f"base_model: {folder / 'base' / file}\n"
    recipe = folder / "mergekit.yaml"
    recipe.write_text(f"models:\n{models}{base}{MERGEKIT[kind]}dtype: float32\n")
    started, used = time.perf_counter(), children_seconds()
    try:
        subprocess.run([command, recipe, folder / "out"], check=True, capture_output=True, timeout=seconds)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    wall, cpu = time.perf_counter() - started, children_seconds() - used
    remove(folder / "out")
    return wall, cpu, ended


def children_seconds() -> float:
    """CPU time of the finished processes that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def row(name: str, ours: list[float], baseline: list[float], unit: str) -> None:
    """Print one line."""
    ratio = statistics.median(a / b for a, b in zip(ours, baseline, strict=True))
    middle = statistics.median
    found = {"name": name, "ours": round(middle(ours), 2), "baseline": round(middle(baseline), 2)}
    print(json.dumps({**found, "ratio": round(ratio, 3), "unit": unit}), flush=True)


def measure(folder: Path, rounds: int, end: float, threads: int) -> None:
    """Interleaved rounds, no further one that would last beyond `end`; then the rows."""
    kinds = ["floor4", "linear", "floor5", "task_arithmetic", "ties", "dare_ties"]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    run_job("task_arithmetic", folder, threads)  # warms the page cache and the hashes of the inputs
    started = time.perf_counter()
    for number in range(rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            found[kind].append(run_job(kind, folder, threads))
        now = time.perf_counter()
        if now + (now - started) / (number + 1) > end:
            break

    def values(kind: str, what: str) -> list[float]:
        return [result[what] for result in found[kind]]

    row("linear/vs_floor", values("linear", "wall"), values("floor4", "wall"), "s wall")
    row("linear/cpu_vs_floor", values("linear", "cpu"), values("floor4", "cpu"), "s CPU")
    row("linear/main_vs_floor", values("linear", "main"), values("floor4", "cpu"), "s CPU")
    row("task_arithmetic/vs_floor", values("task_arithmetic", "wall"), values("floor5", "wall"), "s wall")
    row("ties/vs_linear", values("ties", "cpu"), values("linear", "cpu"), "s CPU")
    row("dare_ties/vs_linear", values("dare_ties", "cpu"), values("linear", "cpu"), "s CPU")
    for kind, limit in (("linear", 150), ("task_arithmetic", 150), ("ties", 300), ("dare_ties", 300)):
        row(
            f"{kind}/memory_above_import_mib",
            values(kind, "memory"),
            [limit] * len(found[kind]),
            "MiB (limit)",
        )


def compare_mergekit(folder: Path, command: str | None, end: float, threads: int) -> None:
    """One run of each beside the other, stopped at `end`: mergekit's TIES takes minutes."""
    for kind in ("linear", "ties"):
        name = f"{kind}/vs_mergekit"
        if command:
            ours = run_job(kind, folder, threads)
            wall, cpu, ended = run_mergekit(command, kind, folder, max(end - time.perf_counter(), 10))
            note = "" if ended else "; mergekit was stopped: upper bound"
            row(name, [ours["wall"]], [wall], f"s wall{note}")
            row(f"{kind}/cpu_vs_mergekit", [ours["cpu"]], [cpu], f"s CPU{note}")
        else:
            note = {"name": name, "ours": None, "baseline": None, "ratio": None}
            print(json.dumps({**note, "unit": "skipped: mergekit-pytorch is not on the path"}), flush=True)


def main() -> None:
    """Parse the command line; clean up the scratch folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="scratch folder (about 7 GB); a temporary one by default")
    parser.add_argument("--parameters", type=float, default=258e6, help="of a model; not below 131e6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=540, help="seconds that all may take, about")
    parser.add_argument("--threads", type=int, default=1, help="workers of our merges")
    parser.add_argument("--mergekit", default=shutil.which("mergekit-pytorch"), help="mergekit's command")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(options.job, options.folder, options.threads)))
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="merge-", dir=options.folder)))
        generate(scratch, options.parameters)
        # half of the time for mergekit, whose TIES needs two minutes of an idle core
        measure(scratch, options.rounds, started + options.limit / 2, options.threads)
        compare_mergekit(scratch, options.mergekit, started + options.limit, options.threads)


if __name__ == "__main__":
    main()
