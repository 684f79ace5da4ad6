"""A model folder brings its source: it loads, and writes the same, where this package cannot be imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from test_hub import LENGTH, TEXT, folder, generated, media

from unival import compat
from unival.merging import merge
from unival.model import UnivalForConditionalGeneration, UnivalProcessor
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
import torch
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

folder, length, text = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
with np.load(sys.argv[4]) as arrays:
    media = {{**arrays, "images": Image.fromarray(arrays["images"])}}

def load(folder, **words):
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True, **words).eval()
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=True)

def tell(model, processor):
    print(json.dumps(processor.batch_decode(model.generate(**processor(text=text, **media), **length))))

model, processor = load(folder)
tell(model, processor)
model.save_pretrained(folder + "-saved")
processor.save_pretrained(folder + "-saved")
tell(*load(folder + "-saved"))
ask = pipeline("any-to-any", model=folder, trust_remote_code=True)
found = ask(text=text, **media, generate_kwargs=length, return_full_text=False)
print(json.dumps([row["generated_text"] for row in found]))
ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
found = ask(media["images"], text=text, generate_kwargs=length, return_full_text=False)
print(json.dumps([row["generated_text"] for row in found]))
model, processor = load(folder, dtype=torch.bfloat16)
batch = {{
    name: values.to(torch.bfloat16) if values.is_floating_point() else values
    for name, values in processor(text=text, **media).items()
}}
print(json.dumps(processor.batch_decode(model.generate(**batch, **length))))
"""


def test_loads_without_the_package(folder: Path, tmp_path: Path) -> None:
    """And is saved there, and loaded again; every way writes what the package's own classes do."""
    import numpy as np
    import torch

    out = tmp_path / "copied"
    shutil.copytree(folder, out)
    given = media()
    np.savez(tmp_path / "media.npz", **{name: np.asarray(value) for name, value in given.items()})
    arguments = [str(out), json.dumps(LENGTH), TEXT, str(tmp_path / "media.npz")]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *arguments],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    everything, saved, by_pipeline, of_picture, halved = map(json.loads, done.stdout.splitlines())
    assert everything == saved == by_pipeline == generated(folder, text=TEXT, **given)
    assert of_picture == generated(folder, text=TEXT, images=given["images"])
    model = UnivalForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    reads = UnivalProcessor.from_pretrained(folder)
    batch = {
        name: values.to(torch.bfloat16) if values.is_floating_point() else values
        for name, values in reads(text=TEXT, **given).items()
    }
    assert halved == reads.batch_decode(model.generate(**batch, **LENGTH))
    # what a stranger has saved is, with the package, a folder like any other
    assert generated(tmp_path / "copied-saved", text=TEXT, **given) == everything
    assert listed(tmp_path / "copied-saved") == listed(folder)


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


def test_modules_are_complete_and_relative() -> None:
    found = modules()
    assert not [
        name for name, source in found.items() if "from unival" in source or "import unival" in source
    ]
    for name, source in found.items():
        compile(source, f"{name}.py", "exec")
    assert "Apache-2.0" in found["modeling_unival"]


def test_all_that_is_saved_brings_the_code(folder: Path, tmp_path: Path) -> None:
    """A model, a processor alone, and a merge of models; each names the classes for the Auto classes."""
    wanted = {f"{name}.py" for name in modules()}
    UnivalProcessor.from_pretrained(folder).save_pretrained(tmp_path / "processor")
    merge(
        {"method": "average", "models": ["a", "b"]}, {"a": folder, "b": folder}, folder, tmp_path / "merged"
    )
    for place in (folder, tmp_path / "processor", tmp_path / "merged"):
        assert listed(place) == wanted, place
        for name in {"config.json", "processor_config.json"} & {path.name for path in place.iterdir()}:
            classes = json.loads((place / name).read_text())["auto_map"]
            assert classes["AutoProcessor"] == "modeling_unival.UnivalProcessor", place / name
