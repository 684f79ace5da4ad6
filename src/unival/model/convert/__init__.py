"""From the checkpoints of the original, of BART and of public encoders to a model folder, and back.

`unival convert official` reads a `.pt` of UnIVAL or OFA; `unival convert init` makes a fresh model that
starts from BART and public encoders; `unival convert export` writes a model folder under the original's
names. Nothing in a checkpoint is executed (see reader.py), and nothing is written unless all of it was read.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from unival import config, files
from unival.errors import UserError

CONVERSION_FILE = "conversion.json"
RELEASED_AUDIO_PROMPT = " what does the video describe?"


def convert(
    source: Path | str,
    out: Path | str,
    *,
    weights: Literal["model", "ema"] = "model",
    vocab: Path | str | None = None,
    num_codes: int = 8192,
    num_bins: int = 1000,
    image_size: int | None = None,
    audio_hop: int | None = None,
    mel_filters: int | None = None,
    audio_prompt: Literal["audio", "video"] = "video",
    grounding_scale: int | Literal["image"] | None = None,
) -> dict[str, Any]:
    """Write the model folder `out` from an original checkpoint; returns what conversion.json says.

    Args:
        source: `.pt` of UnIVAL or OFA.
        out: a folder that does not exist yet, or is empty.
        weights: the raw weights or their moving average.
        vocab: folder with the original's vocabulary files or the BART tokenizer; without it the folder gets
        no
            tokenizer and no processor.
        num_codes: image codes of the vocabulary.
        num_bins: location bins of the vocabulary.
        image_size: pixels; None: what the checkpoint was trained with, else 384.
        audio_hop: samples between audio frames; None: the checkpoint's setting, else 200.
        mel_filters: rate in Hz that the mel filters assume; None: that of the filters in the file, else the
            32000 of the released weights (on audio of 48 kHz).
        audio_prompt: the medium that prompts of audio tasks name; the released weights know "video".
        grounding_scale: pixels that the last location bin stands for, or "image" for the image's own size;
        None:
            the checkpoint's `max_image_size`, else 512.

    Raises:
        UserError: refused or unfitting content.
    """
    from unival.model.convert import official

    opened = official.read_source(source, weights)
    model_config = official.read_config(opened.weights, opened.settings, audio_hop)
    if mel_filters is not None and (model_config.audio_encoder or {}).get("type", "identity") != "identity":
        rate = {"mel_sampling_rate": mel_filters}
        model_config.audio_encoder = {**model_config.audio_encoder, **rate}  # type: ignore[dict-item]
    scale = grounding_scale or int(opened.settings.get("max_image_size") or official.RELEASED_GROUNDING_SCALE)
    settings = {
        "image_size": image_size or int(opened.settings.get("patch_image_size") or 384),
        "bin_scale": None if scale == "image" else scale,
    }
    processor = (
        None if vocab is None else _processor(vocab, num_codes, num_bins, model_config.vocab_size, settings)
    )
    model = official.to_model(opened, model_config)
    prompts = {"audio_caption": {"prompt": RELEASED_AUDIO_PROMPT}} if audio_prompt == "video" else {}
    facts = {
        "source": Path(source).name,
        "sha256": files.file_digest(source),
        "weights": weights,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings_of_tasks": prompts if model_config.audio_encoder else {},
        "configuration_in_the_file": opened.configuration,
    }
    _publish(out, [model.save_pretrained, *([processor.save_pretrained] if processor else [])], facts)
    return facts


def export(folder: Path | str, out: Path | str, half: bool = False) -> int:
    """Write the model of `folder` under official names: `.safetensors`, or `.pt` as `{"model": tensors}`.

    Returns:
        The number of tensors.
    """
    import torch
    from safetensors.torch import save_file

    from unival.model.convert import official
    from unival.model.modeling import UnivalForConditionalGeneration

    out = Path(out)
    if out.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{out}: give the file the suffix .pt or .safetensors")
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: no model there")
    state = official.to_official(UnivalForConditionalGeneration.from_pretrained(folder))
    if half:
        state = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
        }
    with files.atomic(out) as part:
        if out.suffix == ".pt":
            torch.save({"model": state}, part)
        else:
            save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, part)
    return len(state)


def initialise(
    settings: Path | str,
    out: Path | str,
    *,
    vocab: Path | str,
    num_codes: int = 8192,
    num_bins: int = 1000,
    bart: Path | str | None = None,
    encoders: dict[str, Path | str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the folder of a fresh model of `conf/model/<name>.yaml` that starts from public weights.

    Args:
        settings: the YAML file, with `config` and `processor`.
        out: a folder that does not exist yet, or is empty.
        vocab: folder of the vocabulary: the original's files, the BART tokenizer, or one of ours.
        num_codes: image codes of the vocabulary (not for one of ours).
        num_bins: location bins of the vocabulary (not for one of ours).
        bart: `model.pt` of fairseq's BART, or the weights of the public one.
        encoders: weights for `image` (timm, torchvision), `video` (Kinetics) and `audio` (AudioSet).
        seed: of everything that is drawn.
    """
    import torch

    from unival.model.configuration import UnivalConfig
    from unival.model.convert.public import start_encoder, start_from_bart
    from unival.model.modeling import UnivalForConditionalGeneration

    content = config.load(settings)
    processor = _processor(vocab, num_codes, num_bins, None, content.get("processor", {}))
    torch.manual_seed(seed)
    size = {"vocab_size": len(processor.tokenizer)}
    model = UnivalForConditionalGeneration(UnivalConfig(**{**content.get("config", {}), **size}))
    facts: dict[str, Any] = {"model": Path(settings).name, "seed": seed, "started_from": {}}
    if bart is not None:
        facts["started_from"]["text"] = {
            "file": Path(bart).name,
            "tensors": len(start_from_bart(model, bart, seed)),
        }
    for modality, path in (encoders or {}).items():
        taken = start_encoder(model, modality, path)
        facts["started_from"][modality] = {"file": Path(path).name, "tensors": taken}
    _publish(out, [model.save_pretrained, processor.save_pretrained], facts)
    return facts


def _processor(
    vocab: Path | str, num_codes: int, num_bins: int, size: int | None, settings: dict[str, Any]
) -> Any:
    from unival.model.processing import UnivalProcessor
    from unival.vocab import UnivalTokenizer

    vocab = Path(vocab)
    if (vocab / "encoder.json").exists():
        tokenizer = UnivalTokenizer.from_original(vocab, num_codes, num_bins)
    elif (vocab / "tokenizer_config.json").exists() and "UnivalTokenizer" in (
        vocab / "tokenizer_config.json"
    ).read_text(encoding="utf-8"):
        tokenizer = UnivalTokenizer.from_pretrained(vocab)
    else:
        tokenizer = UnivalTokenizer.from_bart(vocab, num_codes, num_bins)
    if size is not None and len(tokenizer) != size:
        raise UserError(
            f"{vocab}: {len(tokenizer)} tokens, the checkpoint has {size}: check --codes and --bins"
        )
    return UnivalProcessor(tokenizer, **settings)


def _publish(out: Path | str, writers: list[Callable[[Path], Any]], facts: dict[str, Any]) -> None:
    """All files of a model folder, or none."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already: give another folder or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out.parent}: cannot write here: {error.strerror}") from error
    try:
        for write in writers:
            write(part)
        files.write_json(part / CONVERSION_FILE, facts)
        part.chmod(0o755)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `unival convert`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = actions.add_parser("official", help="a .pt of UnIVAL or OFA -> a model folder")
    command.add_argument("source", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--weights", choices=("model", "ema"), default="model")
    command.add_argument("--image-size", type=int, help="pixels (default: as trained, else 384)")
    command.add_argument(
        "--audio-hop", type=int, help="samples between frames (default: as trained, else 200)"
    )
    command.add_argument(
        "--mel-filters",
        type=int,
        help="rate in Hz of the mel filters (default: those in the file, else 32000)",
    )
    command.add_argument(
        "--audio-prompt", choices=("audio", "video"), default="video", help="what prompts of audio tasks name"
    )
    command.add_argument(
        "--grounding-scale",
        type=_scale,
        help="pixels of the last bin, or 'image' (default: as trained, else 512)",
    )
    _add_vocabulary(command, required=False)
    command = actions.add_parser("init", help="a fresh model that starts from BART and public encoders")
    command.add_argument("model", type=Path, help="conf/model/<name>.yaml")
    command.add_argument("out", type=Path)
    command.add_argument("--bart", type=Path)
    for modality in ("image", "video", "audio"):
        command.add_argument(f"--{modality}", type=Path, help=f"weights of the {modality} encoder")
    command.add_argument("--seed", type=int, default=0)
    _add_vocabulary(command, required=True)
    command = actions.add_parser("export", help="a model folder -> the original's names")
    command.add_argument("folder", type=Path)
    command.add_argument("out", type=Path, help=".pt or .safetensors")
    command.add_argument("--half", action="store_true", help="float16")


def _scale(text: str) -> int | str:
    return "image" if text == "image" else int(text)


def _add_vocabulary(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument("--vocab", type=Path, required=required, help="folder of the vocabulary files")
    command.add_argument("--codes", type=int, default=8192)
    command.add_argument("--bins", type=int, default=1000)


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for and say what was done."""
    if options.action == "export":
        print(f"{options.out}: {export(options.folder, options.out, options.half)} tensors")
        return
    vocabulary = {"vocab": options.vocab, "num_codes": options.codes, "num_bins": options.bins}
    if options.action == "init":
        given = {
            name: getattr(options, name) for name in ("image", "video", "audio") if getattr(options, name)
        }
        facts = initialise(
            options.model, options.out, bart=options.bart, encoders=given, seed=options.seed, **vocabulary
        )
        print(f"{options.out}: started from {facts['started_from'] or 'random weights'}")
        return
    facts = convert(
        options.source,
        options.out,
        weights=options.weights,
        image_size=options.image_size,
        audio_hop=options.audio_hop,
        mel_filters=options.mel_filters,
        audio_prompt=options.audio_prompt,
        grounding_scale=options.grounding_scale,
        **vocabulary,
    )
    print(f"{options.out}: {facts['parameters']:,} parameters")
    if options.vocab is None:
        print("no tokenizer and no processor: give --vocab to have them")
    for task, settings in facts["settings_of_tasks"].items():
        print(f"these weights need, for the task {task}: {settings}")


def main(arguments: list[str] | None = None) -> None:
    """`unival convert`."""
    parser = argparse.ArgumentParser(prog="unival convert", description=__doc__.splitlines()[0])
    add_arguments(parser)
    run(parser.parse_args(arguments))
