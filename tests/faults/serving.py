"""Faults of `unival serve` and of what its clients send: afterwards it gives the answers of before."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from tests.faults import commands, process
from tests.faults.process import Fault

MODEL, FAULTS = "models/finetune/vqa", 35
ASKED_TO_END = -signal.SIGTERM
"""The status of a server that ends in good order: the signal's, after what it has to do."""
ASKED = ("", "what is in the image?", "how many?")


class Bench:
    """A folder with a model and a photo, and the answers that are right."""

    varies: tuple[str, ...] = ()

    def __init__(self, study: Path, work: Path) -> None:
        self.folder, self.logs, self.study = work / "here", work / "logs", study
        self.logs.mkdir()
        self.folder.mkdir()
        commands.workspace(study, self.folder, (MODEL, "conf"))
        self.photo = (study / "photos/00.jpg").read_bytes()
        with self.serving() as (url, _):
            self.right = self.answers(url)

    command = place = None

    @contextlib.contextmanager
    def serving(self, fault: Fault | None = None) -> Iterator[tuple[str, int]]:
        """The address of a server that listens, and its process."""
        fault = fault or Fault()
        child = process.start(["serve", MODEL, "--port", "0"], self.folder, self.logs, fault)
        limit = time.monotonic() + 120
        try:
            while not (found := (self.logs / "stdout").read_text().partition("http://")[2].partition(" ")[0]):
                if time.monotonic() > limit:
                    raise RuntimeError(f"serve does not listen\n{(self.logs / 'stderr').read_text()}")
                time.sleep(0.05)
            yield f"http://{found}", child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            self.ended = process.wait(child, self.folder, self.logs, fault)

    def answers(self, url: str) -> list[str]:
        """What it says of the photo."""
        return [self._ask(url, self.photo, text).text for text in ASKED]

    def _ask(self, url: str, photo: bytes, text: str) -> requests.Response:
        form = {"text": text} if text else {}
        return requests.post(f"{url}/predict", data=form, files={"file": ("a.jpg", photo)}, timeout=60)

    def inject(self, kind: str, number: int) -> dict[str, object]:
        """One fault, and the same questions afterwards."""
        rng, harm = random.Random(f"serve/{kind}/{number}"), []
        words = KINDS[kind](self, rng, harm)
        met = self.ended
        with self.serving() as (url, _):
            if self.answers(url) != self.right:
                harm.append("again: other answers")
        said = {"said": met.said[-600:], "again": self.ended.said[-600:]}
        return {"fault": words, "status": met.status, "harm": harm, **said}

    def _after(self, url: str, harm: list[str]) -> None:
        """The server that met the fault goes on."""
        if self.answers(url) != self.right:
            harm.append("other answers")

    def _right_end(self, harm: list[str], *statuses: int) -> None:
        if self.ended.status not in statuses:
            harm.append(f"exit {self.ended.status}")
        if "Traceback" in self.ended.said:
            harm.append("traceback")
        if self.ended.orphans:
            harm.append("a process is left")

    def close(self) -> None:
        """Nothing is to be given back."""


def _signal(number: int, *statuses: int) -> Callable[[Bench, random.Random, list[str]], str]:
    def inject(bench: Bench, rng: random.Random, harm: list[str]) -> str:
        """In the middle of a request."""
        delay = rng.uniform(0, 0.4)
        with bench.serving() as (url, child):
            threading.Timer(delay, os.kill, (child, number)).start()
            with contextlib.suppress(requests.RequestException):
                for _ in range(3):
                    said = bench.answers(url)
                    if said != bench.right:
                        harm.append("other answers")
        bench._right_end(harm, *statuses)
        return f"{delay:.2f} s after the first question"

    return inject


def _cut_request(bench: Bench, rng: random.Random, harm: list[str]) -> str:
    share = rng.uniform(0, 1)
    with bench.serving() as (url, _):
        prepared = requests.Request(
            "POST", f"{url}/predict", files={"file": ("a.jpg", bench.photo)}
        ).prepare()
        head = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers.items())
        host = url.removeprefix("http://")
        whole = f"POST /predict HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode() + prepared.body
        address, port = host.split(":")
        with socket.create_connection((address, int(port)), 10) as connection:
            connection.sendall(whole[: int(share * len(whole))])
        bench._after(url, harm)
    bench._right_end(harm, ASKED_TO_END)
    return f"cut at {share:.0%}"


def _damaged_medium(bench: Bench, rng: random.Random, harm: list[str]) -> str:
    data = bytearray(bench.photo)
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    del data[rng.randrange(len(data) // 2, len(data)) :]
    with bench.serving() as (url, _):
        told = bench._ask(url, bytes(data), "")
        if told.status_code >= 500:
            harm.append(f"status {told.status_code}")
        bench._after(url, harm)
    bench._right_end(harm, ASKED_TO_END)
    return f"photo of {len(data)} bytes: {told.status_code}"


def _deleted_model(bench: Bench, rng: random.Random, harm: list[str]) -> str:
    with bench.serving() as (url, _):
        shutil.rmtree(bench.folder / MODEL)
        bench._after(url, harm)
    bench._right_end(harm, ASKED_TO_END)
    commands.workspace(bench.study, bench.folder, (MODEL,))
    return "the model's folder"


def _file_size(bench: Bench, rng: random.Random, harm: list[str]) -> str:
    most = rng.randint(100, 1500)
    limits = (most, resource.RLIM_INFINITY)
    with bench.serving(Fault(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))) as (url, _):
        bench._after(url, harm)
    bench._right_end(harm, ASKED_TO_END)
    return f"files of {most} bytes at most"


KINDS: dict[str, Callable[[Bench, random.Random, list[str]], str]] = {
    "kill -9": _signal(signal.SIGKILL, -9),
    "SIGTERM": _signal(signal.SIGTERM, ASKED_TO_END),
    "Ctrl-C": _signal(signal.SIGINT, -2, 130, ASKED_TO_END),
    "file too large": _file_size,
    "folder deleted": _deleted_model,
    "request cut": _cut_request,
    "medium damaged": _damaged_medium,
}
