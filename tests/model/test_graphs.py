"""Exported graphs answer as the model does, and leave it as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unival import sample
from unival.cli import main
from unival.model.folder import read

PROMPTS = {
    "image": " what color is the square?",
    "video": " what does the video describe?",
    "audio": " what does the audio describe?",
}


def media(processor: Any, modality: str) -> torch.Tensor:
    rng = np.random.default_rng(0)
    if modality == "audio":
        return processor.audio(rng.normal(0, 0.1, 8000).astype(np.float32))[None]
    if modality == "image":
        return processor.image(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8))[None]
    return processor.video(list(rng.integers(0, 255, (8, 40, 40, 3), dtype=np.uint8)))[None]


def answer(encode: Any, step: Any, ids: torch.Tensor, values: torch.Tensor, pad: int) -> list[int]:
    """Greedy decoding by the graphs alone."""
    encoded = encode(ids, (ids != pad).long(), values)
    prefix, tokens = torch.full((1, 12), pad), [0]
    while len(tokens) < 12 and tokens[-1] != 2:
        prefix[0, : len(tokens)] = torch.tensor(tokens)
        tokens.append(int(step(prefix, torch.tensor([len(tokens) - 1]), *encoded).argmax()))
    return tokens


def of_onnx(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*given: torch.Tensor) -> Any:
        found = session.run(None, dict(zip(names, [one.numpy() for one in given], strict=True)))
        return torch.from_numpy(found[0]) if len(found) == 1 else [torch.from_numpy(one) for one in found]

    return run


@pytest.mark.parametrize("modality", ["image", pytest.param("video", marks=pytest.mark.slow), "audio"])
def test_graphs_answer_as_the_model_does(modality: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    main(
        ["convert", "onnx", str(sample.FOLDER), str(tmp_path / "graphs"), "--modality", modality,
         "--source", "16", "--target", "12"]
    )  # fmt: skip
    model, processor = read(sample.FOLDER)
    model.eval()
    values, text = media(processor, modality), processor.text([PROMPTS[modality]])["input_ids"]
    pad = processor.tokenizer.pad_token_id
    ids = torch.full((1, 16), pad)
    ids[:, : text.shape[1]] = text
    name = {"image": "pixel", "video": "video", "audio": "audio"}[modality]
    with torch.no_grad():
        encoded = model.encoder(input_ids=text, **{f"{name}_values": values})
        expected = model.generate(
            input_ids=text, **{f"{name}_values": values}, num_beams=1, do_sample=False, max_new_tokens=11
        )[0].tolist()
        assert encoded.last_hidden_state is not None
        for suffix in ("pt2", "onnx"):
            encode, step = (
                of_onnx(path) if suffix == "onnx" else torch.export.load(path).module()
                for path in (tmp_path / f"graphs/{part}.{suffix}" for part in ("encoder", "step"))
            )
            states, mask, _ = encode(ids, (ids != pad).long(), values)
            length = encoded.last_hidden_state.shape[1]
            assert mask.sum() == length
            torch.testing.assert_close(
                states[:, :length], encoded.last_hidden_state, atol=2e-4, rtol=2e-4, msg=suffix
            )
            assert answer(encode, step, ids, values, pad) == expected, suffix


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, message in ((("--source", "4000"), "reads 128"), (("--modality", "smell"), "invalid choice")):
        with pytest.raises(SystemExit):
            main(["convert", "onnx", str(sample.FOLDER), str(tmp_path / "out"), *option])
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--rows 0", "--source 1", "--target 0", "--rows -3", "--source many"])
def test_sizes_that_no_graph_has_are_named(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt holds at least its begin and its end."""
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "onnx", str(sample.FOLDER), str(tmp_path / "out"), *option.split()])
    assert stopped.value.code == 2 and f"argument {option.split()[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["image-size", "audio-hop", "mel-filters", "grounding-scale"])
def test_nothing_is_not_the_default(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "official", str(tmp_path / "a.pt"), str(tmp_path / "out"), f"--{option}", "0"])
    assert f"argument --{option}: 0 is less than 1" in capsys.readouterr().err
