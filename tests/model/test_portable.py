"""A folder with its own source loads, and writes the same, where this package cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_hub import LENGTH, TEXT, folder, generated, media

from unival import compat
from unival.commands import convert
from unival.errors import UserError
from unival.model.portable import modules

__all__ = ["folder"]

STRANGER = f"""
import importlib.util, json, sys

spec = importlib.util.spec_from_file_location("compat", {str(compat.__file__)!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.install()  # for this machine's torchvision

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "unival":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

folder, length, text = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
with np.load(sys.argv[4]) as arrays:
    media = {{**arrays, "images": Image.fromarray(arrays["images"])}}
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
print(json.dumps(processor.batch_decode(model.generate(**processor(text=text, **media), **length))))
ask = pipeline("any-to-any", model=folder, trust_remote_code=True)
found = ask(text=text, **media, generate_kwargs=length, return_full_text=False)
print(json.dumps([row["generated_text"] for row in found]))
ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
found = ask(media["images"], text=text, generate_kwargs=length, return_full_text=False)
print(json.dumps([row["generated_text"] for row in found]))
"""


def test_loads_without_the_package(folder: Path, tmp_path: Path) -> None:
    import numpy as np

    out = tmp_path / "portable"
    convert.main(["portable", str(folder), str(out)])
    given = media()
    np.savez(tmp_path / "media.npz", **{name: np.asarray(value) for name, value in given.items()})
    arguments = [str(out), json.dumps(LENGTH), TEXT, str(tmp_path / "media.npz")]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *arguments],
        env={**outside, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    everything, by_pipeline, of_picture = map(json.loads, done.stdout.splitlines())
    assert everything == by_pipeline == generated(folder, text=TEXT, **given)
    assert of_picture == generated(folder, text=TEXT, images=given["images"])
    # and with the package it is a folder like any other
    assert generated(out, text=TEXT, **given) == everything
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_modules_are_complete_and_relative() -> None:
    found = modules()
    assert not [
        name for name, source in found.items() if "from unival" in source or "import unival" in source
    ]
    for name, source in found.items():
        compile(source, f"{name}.py", "exec")
    assert found == modules()


def test_only_whole_models_are_copied(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model there"):
        convert.main(["portable", str(tmp_path), str(tmp_path.parent / "out")])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine.txt"):
        convert.main(["portable", str(folder), str(tmp_path)])
