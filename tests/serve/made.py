"""A server of two small models with random weights, and media for it."""

import io
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import requests
import uvicorn
from PIL import Image

from tests.tasks import world
from unival.data import media
from unival.serve import app, server
from unival.serve.models import Models
from unival.tasks.folder import write_tasks

TASKS = [name for name in world.TASKS if name not in ("grounded_caption", "entailment_premise")]
"""Those that need nothing but a medium and a text."""


def folder(path, seed=0):
    """A model folder. Its batch norm has counted `seed` batches: no two trainings see equally many."""
    model = world.model(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(seed)
    model.save_pretrained(path)
    world.processor().save_pretrained(path)
    write_tasks({name: world.task_config(name) for name in world.TASKS}, path)
    return path


def picture(seed=0, size=(60, 40)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*reversed(size), 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clip(seed=0):
    frames = np.random.default_rng(seed).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
    return media.encode_video(frames)


def sound(seed=0, seconds=1.3):
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 8000)).astype(np.float32)
    return media.encode_wav(samples, 8000)


PATIENCE = 300
"""Seconds after which something will not come any more, however busy the machine is."""
FILES = {"image": ("a.png", picture), "video": ("a.mp4", clip), "audio": ("a.wav", sound)}


def medium(modality, seed=0):
    """(name, bytes) of a medium."""
    name, make = FILES[modality]
    return name, make(seed)


class Server:
    """A running server and how to ask it."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    def ask(self, name, data, **fields):
        """The response to a form."""
        form = [
            (key, str(v))
            for key, value in fields.items()
            for v in (value if isinstance(value, list) else [value])
        ]
        return requests.post(f"{self.url}/predict", data=form, files={"file": (name, data)}, timeout=PATIENCE)

    def get(self, path, **headers):
        return requests.get(self.url + path, headers=headers, timeout=PATIENCE)

    def metric(self, name):
        """The value of a sample."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


@contextmanager
def running(models, token=""):
    """Serve in a thread of this process."""
    listening = server.listen("127.0.0.1", 0)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app.create(models, token=token), log_level="critical"))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: uvicorn_server.started)
        yield Server(listening.getsockname()[1])
    finally:
        uvicorn_server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(true):
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def sentence(response):
    """The reason of a refusal, which is one line."""
    told = json.loads(response.content)["error"]
    assert told and "\n" not in told and "Traceback" not in told
    return told


def pair(path):
    """Two models of one architecture on one network."""
    return Models([folder(path / "first", 0), folder(path / "second", 1)])


def begin(port, data, kept=0):
    """A request that the server has begun to read, of which the last bytes are not sent yet: the connection,
    and what it lacks."""
    form = {"files": {"file": ("a.png", data)}, "headers": {"Expect": "100-continue"}}
    request = requests.Request("POST", "http://localhost/predict", **form).prepare()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    asked = b"HTTP/1.1 100 Continue\r\n\r\n"  # comes when the server wants the body
    assert connection.recv(len(asked)) == asked
    sent = len(request.body) - kept
    connection.sendall(request.body[:sent])
    return connection, request.body[sent:]
