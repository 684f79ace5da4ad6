"""Latency and throughput of `unival serve` at 1, 8 and 32 clients, against the predictor in a loop.

Each client sends its next request when it has the answer to the one before: pictures, each another, with one
question. The server is a process of its own whose model runs on one thread, the clients are threads of this
process, and so is the predictor, asked one question at a time. They take turns, for several rounds: `ratio`
is the median of a round's throughput over that of its loop. Milliseconds are of the clock, over all rounds.

    python benchmarks/serve.py                          random weights of the size `tiny`
    python benchmarks/serve.py models/merged/unival    a model folder; JSON lines on standard output
"""

import io
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from PIL import Image

from unival import config
from unival.engine.inference.predictor import Predictor
from unival.model import UnivalConfig, UnivalForConditionalGeneration, UnivalProcessor
from unival.vocab import UnivalTokenizer

ROOT = Path(__file__).resolve().parents[1]
LOADS = {
    "vqa": [("vqa", "what color is the square?")],
    "caption": [("caption", "")],
    "mixed": [("vqa", "how many are there?"), ("caption", ""), ("entailment", "there is a red star")],
}
CLIENTS = (1, 8, 32)
PICTURES, ROUNDS, SECONDS = 64, 3, 5.0


def random_model(folder: Path) -> Path:
    """A model of the size `tiny`, whose answers are as long as they may be."""
    settings = config.load(ROOT / "conf/model/tiny.yaml")
    tokenizer = UnivalTokenizer.train([" what color is the square? there is a red star"], 400, 0, 20)
    torch.manual_seed(0)
    size = UnivalConfig(vocab_size=len(tokenizer), **settings["config"])
    UnivalForConditionalGeneration(size).save_pretrained(folder)
    UnivalProcessor(tokenizer, **settings["processor"]).save_pretrained(folder)
    return folder


def pictures(folder: Path) -> list[Path]:
    """JPEG files of soft noise, 256 pixels wide."""
    paths = [folder / f"{number}.jpg" for number in range(PICTURES)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 256)).save(path)
    return paths


def form(path: Path, task: str, text: str) -> bytes:
    """A request's body."""
    body = io.BytesIO()
    for name, value in (("task", task), ("text", text)):
        body.write(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    body.write(f'--x\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'.encode())
    return body.getvalue() + path.read_bytes() + b"\r\n--x--\r\n"


def client(port: int, bodies: list[bytes], first: int, end: float) -> list[float]:
    """Seconds of each answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    found: list[float] = []
    while (began := time.perf_counter()) < end:
        body = bodies[(first + len(found)) % len(bodies)]
        connection.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=x"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
        found.append(time.perf_counter() - began)
    connection.close()
    return found


def loop(predictor: Predictor, load: str, paths: list[Path]) -> list[float]:
    """Seconds of each answer, one after the other, without a server."""
    questions, seconds = LOADS[load], []
    end = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        task, text = questions[len(seconds) % len(questions)]
        predictor(paths[len(seconds) % PICTURES], text, task)
        seconds.append(time.perf_counter() - began)
    return seconds


def served(port: int, load: str, paths: list[Path], clients: int) -> list[float]:
    """Seconds of each answer to so many clients."""
    questions = LOADS[load]
    bodies = [form(path, *questions[number % len(questions)]) for number, path in enumerate(paths)]
    end = time.perf_counter() + SECONDS
    with ThreadPoolExecutor(clients) as pool:
        found = [pool.submit(client, port, bodies, 7 * number, end) for number in range(clients)]
        return [answer for own in found for answer in own.result()]


def measure(port: int, predictor: Predictor, load: str, paths: list[Path]) -> None:
    """Print the rows of a load."""
    ways = {"loop": lambda: loop(predictor, load, paths)}
    ways |= {f"{number}": partial(served, port, load, paths, number) for number in CLIENTS}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, answers in ways.items():
            began = time.perf_counter()
            found = answers()
            seconds[way] += found
            speeds[way].append(len(found) / (time.perf_counter() - began))
    for way in ways:
        median, high, highest = (1000 * np.percentile(seconds[way], [50, 95, 99])).round(1).tolist()
        ratios = [own / plain for own, plain in zip(speeds[way], speeds["loop"], strict=True)]
        row = {
            "row": f"{load}/{way}",
            "answers": len(seconds[way]),
            "per_second": round(statistics.median(speeds[way]), 1),
            "ratio": round(statistics.median(ratios), 2),
            "median_ms": median,
            "p95_ms": high,
            "p99_ms": highest,
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    """All rows."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else random_model(Path(scratch) / "model")
        paths = pictures(Path(scratch))
        predictor = Predictor.load(folder, ROOT / "conf/task")
        command = [sys.executable, "-m", "unival", "serve", str(folder.resolve()), "--port", "0"]
        environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = int(re.search(r":(\d+) ", server.stdout.readline())[1])  # type: ignore[index]
            for load in LOADS:
                measure(port, predictor, load, paths)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


if __name__ == "__main__":
    main()
