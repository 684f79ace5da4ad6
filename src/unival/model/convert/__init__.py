"""Model folders made of other projects' checkpoints.

`convert` reads a `.pt` of UnIVAL or OFA; `initialise` makes a fresh model that starts from BART and public
encoders; `export` writes a model folder under the original's names. Nothing in a checkpoint is
executed (see unpickler.py), and nothing is written unless all of it was read.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unival import config, files, folders
from unival.errors import UserError

CONVERSION_FILE = "conversion.json"
RELEASED_AUDIO_PROMPT = " what does the video describe?"
RELEASED_GROUNDING_SCALE = 512


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
            no tokenizer and no processor.
        num_codes: image codes of the vocabulary.
        num_bins: location bins of the vocabulary.
        image_size: pixels; None: what the checkpoint was trained with, else 384.
        audio_hop: samples between audio frames; None: the checkpoint's setting, else 200.
        mel_filters: rate in Hz that the mel filters assume; None: that of the filters in the file, else the
            32000 of the released weights (on audio of 48 kHz).
        audio_prompt: the modality that prompts of audio tasks name; the released weights know "video".
        grounding_scale: pixels that the last location bin stands for, or "image" for the image's own size;
            None: the checkpoint's `max_image_size`, else 512.

    Raises:
        UserError: refused or unfitting content, or `out` holds something.
    """
    from unival.model.convert import official
    from unival.model.folder import write_model

    inputs = [source, *([vocab] if vocab is not None else [])]
    folders.check_output(Path(out), CONVERSION_FILE, inputs)
    if vocab is None and (image_size is not None or grounding_scale is not None):
        raise UserError("an image size or grounding scale is kept by the processor: give --vocab, too")
    opened = official.read_source(source, weights)
    given = opened.settings
    try:
        model_config = official.read_config(opened.weights, given, audio_hop, mel_filters)
        scale = grounding_scale or official.whole(given, "max_image_size", RELEASED_GROUNDING_SCALE)
        settings = {
            "image_size": image_size or official.whole(given, "patch_image_size", 384),
            "bin_scale": None if scale == "image" else scale,
        }
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    writers = []
    if vocab is not None:
        processor = _processor(vocab, num_codes, num_bins, settings)
        if len(processor.tokenizer) != model_config.vocab_size:
            raise UserError(
                f"{vocab}: {len(processor.tokenizer)} tokens, the checkpoint has {model_config.vocab_size}: "
                "check --codes and --bins"
            )
        writers.append(processor.save_pretrained)
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
    _publish(out, inputs, [partial(write_model, model), *writers], facts)
    return facts


def export(folder: Path | str, out: Path | str, half: bool = False) -> int:
    """Write the model of `folder` under official names: `.safetensors`, or `.pt` as `{"model": tensors}`.

    Returns:
        The number of tensors.

    Raises:
        UserError: not a whole model; values that float16 does not hold.
    """
    import torch

    from unival import weights
    from unival.model.convert import official
    from unival.model.folder import read_model

    out = Path(out)
    if out.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{out}: give the file the suffix .pt or .safetensors")
    state = official.to_official(read_model(folder))
    if half:
        state = {
            name: weights.cast(tensor, torch.float16, name) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    with files.atomic(out) as part:
        if out.suffix == ".pt":
            weights.save_archive({"model": state}, part)
        else:
            weights.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, part)
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
    from unival.model.folder import write_model
    from unival.model.modeling import UnivalForConditionalGeneration

    inputs = [settings, vocab, *([bart] if bart is not None else []), *(encoders or {}).values()]
    folders.check_output(Path(out), CONVERSION_FILE, inputs)
    content = config.load(settings)
    processor = _processor(vocab, num_codes, num_bins, content.get("processor", {}))
    model_config = UnivalConfig.from_settings(content.get("config", {}), len(processor.tokenizer), settings)
    torch.manual_seed(seed)
    model = UnivalForConditionalGeneration(model_config)
    started: dict[str, Any] = {}
    if bart is not None:
        started["text"] = {"file": Path(bart).name, "tensors": len(start_from_bart(model, bart, seed))}
    for modality, path in (encoders or {}).items():
        started[modality] = {"file": Path(path).name, "tensors": start_encoder(model, modality, path)}
    facts = {"model": Path(settings).name, "seed": seed, "started_from": started}
    _publish(out, inputs, [partial(write_model, model), processor.save_pretrained], facts)
    return facts


def _processor(vocab: Path | str, num_codes: int, num_bins: int, settings: dict[str, Any]) -> Any:
    from unival.model.processing import UnivalProcessor
    from unival.vocab import UnivalTokenizer

    vocab = Path(vocab)
    own = vocab / "tokenizer_config.json"
    if (vocab / "encoder.json").exists():
        tokenizer = UnivalTokenizer.from_original(vocab, num_codes, num_bins)
    elif own.exists() and "UnivalTokenizer" in own.read_text(encoding="utf-8"):
        tokenizer = UnivalTokenizer.from_folder(vocab)
    else:
        tokenizer = UnivalTokenizer.from_bart(vocab, num_codes, num_bins)
    return UnivalProcessor(tokenizer, **settings)


def _publish(
    out: Path | str, inputs: list[Path | str], writers: list[Callable[[Path], Any]], facts: dict[str, Any]
) -> None:
    """All files of a model folder, or none."""
    with folders.new_folder(out, CONVERSION_FILE, inputs) as part:
        for write in writers:
            write(part)
        facts |= folders.contents(part, CONVERSION_FILE)
        files.write_json(part / CONVERSION_FILE, facts)
