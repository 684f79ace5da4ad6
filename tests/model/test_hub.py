"""A model folder in the hands of transformers' users: pipelines, names on the hub, uploads."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from PIL import Image
from test_backbones import AUDIO, IMAGE, VIDEO
from test_mixed_batches import tiny_config
from test_processing import noise, processor
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

from unival.errors import UserError
from unival.model import UnivalForConditionalGeneration, UnivalProcessor

TEXT = " what is this?"
LENGTH = {"min_new_tokens": 4, "max_new_tokens": 6, "num_beams": 2}
COMMIT = "1234567890123456789012345678901234567890"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all media, and its processor."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    reads = processor()
    encoders = {"image_encoder": IMAGE, "video_encoder": VIDEO, "audio_encoder": AUDIO}
    model = UnivalForConditionalGeneration(
        tiny_config(**encoders, image_bucket_size=42, vocab_size=len(reads.tokenizer))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    reads.save_pretrained(path)
    return path


def media() -> dict[str, Any]:
    """One medium of each modality, as the arguments of the processor name them."""
    wave = np.sin(np.arange(500) / 9).astype(np.float32)
    return {"images": Image.fromarray(noise(20, 30, 3)), "videos": noise(4, 8, 8, 3), "audio": wave}


def generated(folder: Path, **arguments: Any) -> list[str]:
    """What the model's own classes write."""
    model = UnivalForConditionalGeneration.from_pretrained(folder).eval()
    reads = UnivalProcessor.from_pretrained(folder)
    return reads.batch_decode(model.generate(**reads(**arguments), **LENGTH))


def answers(found: Any) -> list[str]:
    return [row["generated_text"] for row in found]


def test_picture_pipeline_writes_what_the_model_writes(folder: Path) -> None:
    ask = pipeline("image-text-to-text", model=str(folder), model_kwargs={"attn_implementation": "sdpa"})
    image = media()["images"]
    expected = generated(folder, images=image, text=TEXT)
    assert expected[0]
    options = {"generate_kwargs": LENGTH, "return_full_text": False}
    assert answers(ask(image, text=TEXT, **options)) == expected
    texts = [TEXT, " what"]
    rows = ask([image, image], text=texts, **options)
    assert answers(rows) == generated(folder, images=[image, image], text=texts)


@pytest.mark.parametrize("kinds", [["images"], ["videos"], ["audio"], ["images", "audio"], []])
def test_any_to_any_pipeline_writes_what_the_model_writes(folder: Path, kinds: list[str]) -> None:
    given = {"text": TEXT} | {kind: media()[kind] for kind in kinds}
    ask = pipeline("any-to-any", model=str(folder))
    assert answers(ask(**given, generate_kwargs=LENGTH, return_full_text=False)) == generated(folder, **given)


def test_auto_classes_write_what_the_model_writes(folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    reads = AutoProcessor.from_pretrained(folder, trust_remote_code=False, use_fast=True)
    tokens = model.generate(**reads(**media(), text=TEXT), **LENGTH)
    assert reads.batch_decode(tokens) == generated(folder, **media(), text=TEXT)


@pytest.mark.parametrize("place", ["auto", {"": "cpu"}])
def test_device_maps_change_no_answer(folder: Path, place: Any) -> None:
    pytest.importorskip("accelerate")
    model = AutoModelForMultimodalLM.from_pretrained(folder, device_map=place).eval()
    reads = AutoProcessor.from_pretrained(folder)
    tokens = model.generate(**reads(**media(), text=TEXT), **LENGTH)
    assert reads.batch_decode(tokens) == generated(folder, **media(), text=TEXT)


def test_typing_errors_in_settings_are_named(folder: Path) -> None:
    """Dropping what transformers passes must not hide what a person mistyped."""
    for loader in (UnivalProcessor, AutoProcessor):
        with pytest.raises(UserError, match=r"image_sise.*image_size"):
            loader.from_pretrained(folder, image_sise=32)
    assert (
        UnivalProcessor.from_pretrained(folder, _from_pipeline="x", dtype="auto", image_size=32).image_size
        == 32
    )


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Path:
    """A cache of the hub that holds the folder as one/model, branch and commit."""
    repository = tmp_path / "cache/models--one--model"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return tmp_path / "cache"


@pytest.mark.parametrize("arguments", [{}, {"revision": "main"}, {"revision": COMMIT}])
def test_hub_names_are_found_in_the_cache(folder: Path, cache: Path, arguments: dict[str, str]) -> None:
    where = {"cache_dir": cache, "local_files_only": True, **arguments}
    expected = UnivalProcessor.from_pretrained(folder)
    for loader in (UnivalProcessor, AutoProcessor):
        found = loader.from_pretrained("one/model", **where)
        assert found.settings == expected.settings
        assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    with pytest.raises(OSError, match="cached files"):
        UnivalProcessor.from_pretrained("one/other", cache_dir=cache, local_files_only=True)


def test_subfolder(folder: Path) -> None:
    found = UnivalProcessor.from_pretrained(folder.parent, subfolder=folder.name)
    assert found.settings == UnivalProcessor.from_pretrained(folder).settings


def test_uploads_hold_settings_and_tokenizer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of transformers; a stand-in takes what would be sent."""
    sent: dict[str, set[str]] = {}

    def create_repo(self: Any, repo_id: str, **unused: Any) -> Any:
        return type("Url", (), {"repo_id": f"someone/{repo_id}"})

    def create_commit(self: Any, repo_id: str, operations: Any, **unused: Any) -> None:
        sent[repo_id] = {operation.path_in_repo for operation in operations}

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    card = transformers.utils.hub.ModelCard("---\ntags: []\n---\n")
    monkeypatch.setattr(transformers.utils.hub, "create_and_tag_model_card", lambda *a, **k: card)
    reads = UnivalProcessor.from_pretrained(folder)
    reads.push_to_hub("first")
    reads.save_pretrained(tmp_path / "second", push_to_hub=True)
    reads.save_pretrained(tmp_path / "second", push_to_hub=True, repo_id="third", private=True)
    names = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert sent.keys() == {"someone/first", "someone/second", "someone/third"}
    assert all(names <= found for found in sent.values())
    reads.save_pretrained(tmp_path / "fourth")
    assert len(sent) == 3
