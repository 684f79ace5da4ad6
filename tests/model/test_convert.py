"""Conversion: the recorded checkpoint, round trips, public weights, and files that would run code."""

import contextlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import malicious
import pytest
import reference
import torch
import yaml
from torch import Tensor

from unival.commands import convert as command
from unival.engine.checkpoint import META, STATE, Checkpoints
from unival.errors import UserError
from unival.model import UnivalConfig, UnivalForConditionalGeneration, convert
from unival.model.convert import official
from unival.model.convert.public import read_weights, start_encoder, start_from_bart
from unival.model.convert.reader import Checkpoint
from unival.model.convert.unpickler import plain
from unival.model.processing import UnivalProcessor
from unival.vocab import UnivalTokenizer

CONF = Path(__file__).parents[2] / "conf" / "model"
SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "max_source_positions": 40,
    "max_target_positions": 30,
    "token_bucket_size": 8,
    "token_bucket_max_distance": 64,
    "image_bucket_size": 6,
    "code_image_size": 32,
    "image_encoder": {"type": "resnet", "depths": [1, 2, 1], "width": 4},
    "video_encoder": {
        "type": "resnext3d",
        "depths": [1, 1],
        "width": 8,
        "cardinality": 4,
        "stem_width": 4,
    },
    "audio_encoder": {"type": "cnn14", "channels": [2, 4, 4, 4, 4, 4], "mels": 64, "n_fft": 1024, "hop": 320},
}


def small_model(**changes: Any) -> UnivalForConditionalGeneration:
    torch.manual_seed(0)
    model = UnivalForConditionalGeneration(UnivalConfig(**(SMALL | changes))).eval()
    with torch.no_grad():  # statistics and gains away from 0 and 1
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape)) if "var" in name or "weight" in name else None
    return model


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# The recorded checkpoint and manifests

CHECKPOINTS = sorted(Path(reference.ROOT).glob("checkpoint/*.pt")) if reference.ROOT else []


@pytest.mark.parity
@pytest.mark.skipif(not CHECKPOINTS, reason="UNIVAL_PARITY names no folder with checkpoint/*.pt")
@pytest.mark.parametrize("weights", ["model", "ema"])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_recorded_checkpoint(path: Path, weights: Any, tmp_path: Path) -> None:
    facts = convert.convert(path, tmp_path / "model", weights=weights)
    assert facts["configuration_in_the_file"]
    convert.export(tmp_path / "model", tmp_path / "back.safetensors")
    back = read_weights(tmp_path / "back.safetensors")
    checkpoint = Checkpoint(path)
    tree = checkpoint.tree
    stored = checkpoint.tensors(tree["model"] if weights == "model" else tree["extra_state"]["ema"], weights)
    for name in stored:
        canonical = reference.weights_rule().canonical(name)
        if not name.endswith("version"):
            assert torch.equal(back[name], stored[canonical].to(back[name].dtype)), name
    buffers = re.compile(r".*_rp_bucket$|.*embed_images\.fc\.|.*(spectrogram|logmel)_extractor\.")
    assert all(buffers.match(name) for name in set(back) - set(stored))


@pytest.mark.parity
@pytest.mark.skipif(not CHECKPOINTS, reason="UNIVAL_PARITY names no folder with checkpoint/*.pt")
def test_no_class_of_the_file_is_imported() -> None:
    program = (
        "import sys, unival\nfrom unival.model.convert.reader import Checkpoint\n"
        f"Checkpoint({str(CHECKPOINTS[0])!r})\n"
        "assert not {'omegaconf', 'fairseq'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CONF.parents[1], env=environment())


def environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(CONF.parents[1] / "src")}


@pytest.mark.parity
@pytest.mark.parametrize("folder", reference.sets("state_dict_manifest.json"), ids=lambda folder: folder.name)
def test_recorded_names_and_shapes(folder: Path) -> None:
    recorded = reference.RecordedSet(folder)
    config = recorded.config(identity=False)
    found = official.read_config(
        reference.Shapes(recorded.shapes), {}, audio_hop=(config.audio_encoder or {}).get("hop")
    )
    with torch.device("meta"):
        model = UnivalForConditionalGeneration(found)
    shapes = {name: list(tensor.shape) for name, tensor in official.to_official(model).items()}
    assert shapes == recorded.shapes
    for key in ("d_model", "encoder_layers", "decoder_ffn_dim", "image_bucket_size", "token_bucket_size"):
        assert getattr(found, key) == getattr(config, key)


@pytest.mark.parametrize(
    ("media", "keys", "parameters"),
    [
        (("image",), 1029, 200_038_704),
        (("image", "video"), 1656, 250_489_072),
        (("image", "video", "audio"), 1739, 329_979_120),
    ],
)
def test_base_model_has_the_official_names_and_size(media: Any, keys: int, parameters: int) -> None:
    settings = yaml.safe_load((CONF / "base.yaml").read_text())["config"]
    for modality in {"image", "video", "audio"} - set(media):
        settings[f"{modality}_encoder"] = None
    with torch.device("meta"):
        model = UnivalForConditionalGeneration(UnivalConfig(**settings))
    state = official.to_official(model)
    assert len(state) == keys
    unused = [name for name in state if ".fc." in name or "_extractor." in name]
    own = sum(value.numel() for value in model.parameters())
    assert own + sum(state[name].numel() for name in unused) == parameters


# Round trips


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"video_encoder": None, "audio_encoder": None},
        {"image_encoder": None},
        {
            "audio_encoder": {
                "type": "cnn10",
                "channels": [2, 4, 4, 4, 4],
                "mels": 64,
                "n_fft": 1024,
                "hop": 200,
            }
        },
        {"audio_encoder": {"type": "cnn6", "channels": [2, 4, 4, 4], "mels": 64, "n_fft": 1024, "hop": 200}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_round_trip_is_exact(changes: dict[str, Any], zipped: bool, tmp_path: Path) -> None:
    model = small_model(**changes)
    state = official.to_official(model)
    content = {"model": state, "args": None, "optimizer_history": [{"num_updates": 3}]}
    torch.save(content, tmp_path / "official.pt", _use_new_zipfile_serialization=zipped)
    hop = (model.config.audio_encoder or {}).get("hop")
    convert.convert(tmp_path / "official.pt", tmp_path / "ours", audio_hop=hop)
    again = UnivalForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    assert same(again.state_dict(), model.state_dict())
    for key in SMALL:
        assert getattr(again.config, key) == getattr(model.config, key), key
    convert.export(tmp_path / "ours", tmp_path / "back.pt")
    assert same(dict(read_weights(tmp_path / "back.pt")), state)


def test_half_weights_come_back_as_they_were(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in official.to_official(small_model()).items()}
    torch.save({"model": state}, tmp_path / "half.pt")
    convert.convert(tmp_path / "half.pt", tmp_path / "ours", audio_hop=320)
    convert.export(tmp_path / "ours", tmp_path / "back.pt", half=True)
    back = read_weights(tmp_path / "back.pt")
    assert all(torch.equal(back[name], value) for name, value in state.items() if value.dtype == torch.half)


def test_logits_survive_the_round_trip(tmp_path: Path) -> None:
    model = small_model()
    torch.save(official.to_official(model), tmp_path / "bare.pt")
    convert.convert(tmp_path / "bare.pt", tmp_path / "ours", audio_hop=320)
    again = UnivalForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    batch = {
        "input_ids": torch.tensor([[0, 9, 8, 2]]),
        "pixel_values": torch.randn(1, 3, 64, 64),
        "video_values": torch.randn(1, 3, 8, 32, 32),
        "audio_values": torch.randn(1, 48000),
        "decoder_input_ids": torch.tensor([[0, 5]]),
    }
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_old_behaviours_are_options(tmp_path: Path) -> None:
    state = official.to_official(small_model())
    tokenizer = UnivalTokenizer.train([" a b"], 290, num_bins=10)
    tokenizer.save_pretrained(tmp_path / "vocab")
    filters = "encoder.embed_audios.logmel_extractor.melW"
    size = {"vocab_size": len(tokenizer)}
    state = official.to_official(small_model(**size))
    released = official._audio_buffers(
        official.Cnn14Spec("cnn14", mel_sampling_rate=official.RELEASED_MEL_RATE)
    )

    def made(name: str, state: dict[str, Tensor], **options: Any) -> tuple[Any, Any, Any]:
        torch.save({"model": state}, tmp_path / f"{name}.pt")
        folder = tmp_path / name
        facts = convert.convert(tmp_path / f"{name}.pt", folder, vocab=tmp_path / "vocab", **options)
        audio = json.loads((folder / "config.json").read_text())["audio_encoder"]
        return audio.get("mel_sampling_rate"), UnivalProcessor.from_pretrained(folder).bin_scale, facts

    rate, scale, facts = made("right", state)
    assert rate is None and scale == 512
    assert facts["settings_of_tasks"]["audio_caption"]["prompt"] == " what does the video describe?"
    assert made("released", state | {filters: released[filters]})[0] == 32000
    without = {name: value for name, value in state.items() if "_extractor" not in name}
    assert made("stripped", without)[0] == 32000
    rate, scale, facts = made(
        "chosen",
        without,
        mel_filters=48000,
        grounding_scale="image",
        audio_prompt="audio",
        image_size=100,
        audio_hop=480,
    )
    assert (rate, scale, facts["settings_of_tasks"]) == (48000, 100, {})


@pytest.mark.fault
@pytest.mark.parametrize("size", [(), (0,), (1,), (2, 0)])
def test_a_tensor_of_another_form_is_refused(size: tuple[int, ...], tmp_path: Path) -> None:
    state = official.to_official(small_model())
    for name in ("encoder.embed_tokens.weight", "encoder.embed_videos.layer1.0.conv2.weight",
                 "encoder.image_rel_pos_table_list.0.weight", "encoder.layers.0.self_attn.c_attn",
                 "decoder.embed_positions.weight", "encoder.embed_audios.bn0.weight"):  # fmt: skip
        torch.save({"model": state | {name: torch.zeros(size)}}, tmp_path / "wrong.pt")
        with pytest.raises(UserError, match=r"wrong\.pt: |has shape"):
            convert.convert(tmp_path / "wrong.pt", tmp_path / "out", audio_hop=320)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["attn_scale_factor", "hop_size", "patch_image_size", "max_image_size"])
def test_a_setting_that_is_no_number_is_refused(name: str, tmp_path: Path) -> None:
    state = official.to_official(small_model())
    torch.save({"model": state, "args": {name: "large"}}, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=r"wrong\.pt: .*'large'"):
        convert.convert(tmp_path / "wrong.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("encoder.layers.0.fc1.bias"), "encoder.layers.0.fc1.bias"),
        (lambda state: state.pop("encoder.embed_tokens.weight"), "not a checkpoint of UnIVAL"),
        (lambda state: state.update({"encoder.layers.0.strange": torch.zeros(1)}), "strange"),
        (lambda state: state.update({"encoder.layers.0.fc2.bias": torch.zeros(1)}), r"shape \[1\]"),
    ],
)
def test_unfitting_tensors_are_named_and_nothing_is_written(change: Any, words: str, tmp_path: Path) -> None:
    state = official.to_official(small_model())
    change(state)
    torch.save({"model": state}, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=words):
        convert.convert(tmp_path / "wrong.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_done_is_told_first(tmp_path: Path) -> None:
    torch.save(official.to_official(small_model()), tmp_path / "a.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, and no conversion\.json"):
        convert.convert(tmp_path / "a.pt", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match=r"holds notes\.txt"):  # before the checkpoint is looked at
        convert.convert(tmp_path / "missing.pt", tmp_path / "out")
    for ignored in ({"image_size": 480}, {"grounding_scale": "image"}):
        with pytest.raises(UserError, match="give --vocab"):
            convert.convert(tmp_path / "a.pt", tmp_path / "other", **ignored)
    with pytest.raises(UserError, match="EMA"):
        convert.convert(tmp_path / "a.pt", tmp_path / "other", weights="ema")


# Public weights


def fairseq_bart(model: UnivalForConditionalGeneration, rows: int) -> dict[str, Tensor]:
    """A BART of the model's width under fairseq's names: no bias tables, no gains, no media."""
    kept = re.compile(
        r"(encoder|decoder)\.(embed_positions|layernorm_embedding|layers\.\d+\.(self_attn|encoder_attn)\.\w+_proj"
        r"|layers\.\d+\.(fc1|fc2|self_attn_layer_norm|encoder_attn_layer_norm|final_layer_norm))\."
    )
    torch.manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in official.to_official(model).items() if kept.match(name)}
    bart = {name: torch.randn(shape) for name, shape in shapes.items()}
    bart["encoder.embed_tokens.weight"] = torch.randn(rows, model.config.d_model)
    return bart


@pytest.mark.parametrize("rows", [250, 300, 330])
def test_start_from_bart(rows: int, tmp_path: Path) -> None:
    model, fresh = small_model(), small_model()
    bart = fairseq_bart(model, rows)
    extra = {"encoder.version": torch.tensor([3.0]), "classification_heads.x.weight": torch.zeros(2)}
    torch.save({"model": bart | extra, "args": None}, tmp_path / "model.pt")
    taken = start_from_bart(model, tmp_path / "model.pt", seed=0)
    assert len(taken) == len(bart)
    state = official.to_official(model)
    for name, tensor in bart.items():
        rows_taken = min(rows, 300) if "embed_tokens" in name else None
        assert torch.equal(state[name][:rows_taken], tensor[:rows_taken]), name
    if rows < 300:
        rest = state["encoder.embed_tokens.weight"][rows:]
        assert abs(float(rest.std()) - 32**-0.5) < 0.02
    untouched = set(fresh.state_dict()) - set(taken) - set(model.all_tied_weights_keys)
    assert all(torch.equal(model.state_dict()[name], fresh.state_dict()[name]) for name in untouched)


def test_start_from_bart_under_the_names_of_transformers(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, other = small_model(), small_model()
    bart = fairseq_bart(model, 300)
    torch.save({"model": bart}, tmp_path / "model.pt")
    start_from_bart(model, tmp_path / "model.pt", seed=0)
    renamed = {"model." + name: tensor for name, tensor in bart.items() if "embed_tokens" not in name}
    renamed["model.shared.weight"] = bart["encoder.embed_tokens.weight"]
    save_file(renamed, tmp_path / "model.safetensors")
    start_from_bart(other, tmp_path / "model.safetensors", seed=0)
    assert same(model.state_dict(), other.state_dict())


def test_a_foreign_bart_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"encoder.embed_tokens.weight": torch.zeros(9, 16)}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="embedding"):
        start_from_bart(small_model(), tmp_path / "model.pt", seed=0)


def test_start_of_encoders(tmp_path: Path) -> None:
    source, model = small_model(), small_model()
    parts = {name: media.backbone.state_dict() for name, media in source.encoder.media.items()}
    for values in parts.values():
        for value in values.values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value))
    torch.save(parts["image"] | {"fc.weight": torch.zeros(9, 9)}, tmp_path / "image.pth")
    kinetics = {
        f"module.{name}": value for name, value in (parts["video"] | {"fc.bias": torch.zeros(4)}).items()
    }
    torch.save(
        {"arch": "resnext-101", "epoch": 4, "state_dict": kinetics},
        tmp_path / "video.pth",
        _use_new_zipfile_serialization=False,
    )
    heads = {
        "fc1.weight": torch.zeros(2),
        "fc_audioset.bias": torch.zeros(2),
        "logmel_extractor.melW": torch.zeros(2),
    }
    torch.save({"iteration": 3, "model": parts["audio"] | heads}, tmp_path / "audio.pth")
    for modality in parts:
        start_encoder(model, modality, tmp_path / f"{modality}.pth")
        assert same(model.encoder.media[modality].backbone.state_dict(), parts[modality])
    first = next(iter(parts["image"]))
    for change, words in (
        ({"strange": torch.zeros(1)}, "has 'strange'"),
        ({first: torch.zeros(1)}, f"size mismatch for {first}"),
        ({first: None}, f"lacks '{first}'"),
    ):
        changed = {name: value for name, value in (parts["image"] | change).items() if value is not None}
        torch.save(changed, tmp_path / "other.pth")
        with pytest.raises(UserError, match=f"other.pth: not the network of the image encoder: .*{words}"):
            start_encoder(model, "image", tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the network of the video encoder"):
        start_encoder(model, "video", tmp_path / "audio.pth")
    with pytest.raises(UserError, match="no audio encoder"):
        start_encoder(small_model(audio_encoder=None), "audio", tmp_path / "audio.pth")


def test_init_and_export_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    UnivalTokenizer.train([" a b"], 290, num_bins=10).save_pretrained(tmp_path / "vocab")
    settings = {"config": {key: value for key, value in SMALL.items() if key != "vocab_size"}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(settings | {"processor": {"image_size": 64}}))
    image = small_model().encoder.media["image"].backbone.state_dict()
    torch.save(image, tmp_path / "image.pth")
    words = ["--vocab", str(tmp_path / "vocab"), "--image", str(tmp_path / "image.pth")]
    command.main(["init", str(tmp_path / "model.yaml"), str(tmp_path / "out"), *words])
    model = UnivalForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert same(model.encoder.media["image"].backbone.state_dict(), image)
    processor = UnivalProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_size == 64 and len(processor.tokenizer) == model.config.vocab_size
    command.main(["export", str(tmp_path / "out"), str(tmp_path / "official.pt")])
    command.main(["official", str(tmp_path / "official.pt"), str(tmp_path / "again"), "--audio-hop", "320"])
    assert "no tokenizer" in capsys.readouterr().out
    assert same(
        UnivalForConditionalGeneration.from_pretrained(tmp_path / "again").state_dict(), model.state_dict()
    )


def test_init_names_what_is_wrong_in_the_settings(tmp_path: Path) -> None:
    UnivalTokenizer.train([" a b"], 290).save_pretrained(tmp_path / "vocab")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"d_modle": 32}, "d_modle.*d_model"),
        ({"d_model": 30}, "30 is not a multiple"),
        ({"d_model": "768"}, "d_model: expected int, found '768'"),
        ({"encoder_attention_heads": 0}, "768 is not a multiple of the 0"),
        ({"is_encoder_decoder": "yes"}, "is_encoder_decoder: expected bool"),
    ]
    for fields, words in wrong:
        (tmp_path / "model.yaml").write_text(yaml.safe_dump({"config": fields}))
        with pytest.raises(UserError, match=rf"model\.yaml: .*{words}"):
            convert.initialise(tmp_path / "model.yaml", tmp_path / "out", vocab=tmp_path / "vocab")


# Files that would run code

ATTACKS = sorted(malicious.pickles(Path("marker")))


@pytest.mark.fault
@pytest.mark.parametrize("layout", [malicious.archive, malicious.stream])
@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_pickle_is_refused(attack: str, layout: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    layout(tmp_path / "evil.pt", malicious.pickles(marker)[attack])
    for load in (Checkpoint, read_weights, lambda path: convert.convert(path, tmp_path / "out")):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "evil.pt"))):
            load(tmp_path / "evil.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]
    assert not marker.exists()


@pytest.mark.fault
@pytest.mark.parametrize("attack", ["global", "stack_global", "inst", "obj", "name-builtins.getattr"])
def test_refusal_names_what_was_asked_for(attack: str, tmp_path: Path) -> None:
    content = malicious.pickles(tmp_path / "marker")[attack]
    malicious.archive(tmp_path / "evil.pt", content)
    name = "builtins.getattr" if "getattr" in attack else "os.system"
    with pytest.raises(UserError, match=f"refuses to load '{name}'"):
        Checkpoint(tmp_path / "evil.pt")


@pytest.mark.fault
@pytest.mark.parametrize("trick", sorted(malicious.archives()))
def test_tricky_archive_is_refused(trick: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second entry of a name
        malicious.archives()[trick](tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        convert.convert(tmp_path / "evil.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


@pytest.mark.fault
def test_numbers_in_another_order_of_bytes_are_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"model": {}}, 2)
    malicious.archive(tmp_path / "zip.pt", content, byteorder=b"big")
    malicious.stream(tmp_path / "stream.pt", content, little_endian=False)
    for name in ("zip.pt", "stream.pt"):
        with pytest.raises(UserError, match="order of bytes"):
            Checkpoint(tmp_path / name)


@pytest.mark.fault
def test_model_folder_with_a_pickle_runs_nothing(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    marker = tmp_path / "marker"
    (tmp_path / "model.safetensors").unlink()
    malicious.archive(tmp_path / "pytorch_model.bin", malicious.pickles(marker)["reduce2"])
    with pytest.raises(Exception):  # noqa: B017  (whatever it is called: it must not load)
        UnivalForConditionalGeneration.from_pretrained(tmp_path)
    assert not marker.exists()


@pytest.mark.fault
@pytest.mark.parametrize("attack", ATTACKS)
def test_training_state_with_a_pickle_runs_nothing(attack: str, tmp_path: Path) -> None:
    model, checkpoints, marker = torch.nn.Linear(1, 1), Checkpoints(tmp_path, 1), tmp_path / "marker"
    path = checkpoints.save(1, model, {}, {})
    malicious.archive(path / STATE, malicious.pickles(marker)[attack])
    meta = json.loads((path / META).read_text())
    with contextlib.suppress(Exception):  # some are only malformed
        checkpoints.restore(path, meta, model)
    assert not marker.exists()


def test_configuration_objects_become_data(tmp_path: Path) -> None:
    import argparse

    content = {"args": argparse.Namespace(arch="unival_base", lr=[0.1]), "model": {"a": torch.zeros(2)}}
    torch.save(content, tmp_path / "a.pt")
    tree = Checkpoint(tmp_path / "a.pt").tree
    assert type(tree["args"]) is not argparse.Namespace
    assert plain(tree["args"]) == {"arch": "unival_base", "lr": [0.1]}


def test_a_file_that_refers_to_itself_is_shown_in_part(tmp_path: Path) -> None:
    value: Any = "x"
    for _ in range(40):
        value = [value] * 10
    torch.save({"model": {}, "args": value}, tmp_path / "a.pt")
    assert len(json.dumps(plain(Checkpoint(tmp_path / "a.pt").tree))) < 10**6


def test_tensors_of_all_kinds_are_read(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "bool": base > 3,
        "parameter": torch.nn.Parameter(base),
    }
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = read_weights(tmp_path / "a.pt")
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    shutil.rmtree(tmp_path)
