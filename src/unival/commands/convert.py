"""From checkpoints of the original, BART and public encoders to a model folder, and back; graphs of one."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _parser() -> argparse.ArgumentParser:
    """The command line; options are named as the arguments of the functions in `unival.model.convert`."""
    parser = argparse.ArgumentParser(prog="unival convert", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True, metavar="<action>")

    command = actions.add_parser("official", help="a .pt of UnIVAL or OFA -> a model folder")
    command.set_defaults(act=_official)
    command.add_argument("source", type=Path, metavar="<file>")
    command.add_argument("out", type=Path, metavar="<folder>", help="new or empty")
    help_ = "the raw weights (default) or their moving average"
    command.add_argument("--weights", choices=("model", "ema"), default="model", help=help_)
    command.add_argument("--image-size", type=_from(1), help="pixels (default: as trained, else 384)")
    help_ = "samples between frames (default: as trained, else 200)"
    command.add_argument("--audio-hop", type=_from(1), help=help_)
    help_ = "rate in Hz of the mel filters (default: those in the file, else 32000)"
    command.add_argument("--mel-filters", type=_from(1), help=help_)
    help_ = "what prompts of audio tasks name"
    command.add_argument("--audio-prompt", choices=("audio", "video"), default="video", help=help_)
    help_ = "pixels of the last bin, or 'image' (default: as trained, else 512)"
    command.add_argument("--grounding-scale", type=_scale, help=help_)
    _add_vocabulary(command, required=False)

    command = actions.add_parser("init", help="a fresh model that starts from BART and public encoders")
    command.set_defaults(act=_init)
    command.add_argument("settings", type=Path, metavar="<model.yaml>", help="conf/model/<name>.yaml")
    command.add_argument("out", type=Path, metavar="<folder>", help="new or empty")
    command.add_argument("--bart", type=Path, help="weights of BART, fairseq's or the public ones")
    for modality in ("image", "video", "audio"):
        command.add_argument(f"--{modality}", type=Path, help=f"weights of the {modality} encoder")
    command.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    _add_vocabulary(command, required=True)

    command = actions.add_parser("export", help="a model folder -> the original's names")
    command.set_defaults(act=_export)
    command.add_argument("folder", type=Path, metavar="<model>", help="a model folder")
    command.add_argument("out", type=Path, metavar="<file>", help=".pt or .safetensors")
    command.add_argument("--half", action="store_true", help="float16")

    command = actions.add_parser("onnx", help="a model folder -> graphs for ONNX and torch.export")
    command.set_defaults(act=_onnx)
    command.add_argument("folder", type=Path, metavar="<model>", help="a model folder")
    command.add_argument("out", type=Path, metavar="<folder>", help="new or empty")
    help_ = "of the medium that an example shows (default image)"
    command.add_argument("--modality", choices=("image", "video", "audio"), default="image", help=help_)
    command.add_argument("--rows", type=_from(1), default=1, help="examples of a batch (default 1)")
    command.add_argument("--source", type=_from(2), default=32, help="tokens of a padded prompt (default 32)")
    command.add_argument("--target", type=_from(1), default=24, help="most tokens of an answer (default 24)")

    return parser


def _from(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number, and none below `least`."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def _scale(text: str) -> int | str:
    return "image" if text == "image" else _from(1)(text)


def _add_vocabulary(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument("--vocab", type=Path, required=required, help="folder of the vocabulary files")
    help_ = "image codes of the vocabulary (default 8192)"
    command.add_argument("--codes", type=_from(0), default=8192, dest="num_codes", help=help_)
    help_ = "location bins of the vocabulary (default 1000)"
    command.add_argument("--bins", type=_from(0), default=1000, dest="num_bins", help=help_)


def _official(source: Path, out: Path, **options: Any) -> None:
    from unival.model.convert import convert

    facts = convert(source, out, **options)
    print(f"{out}: {facts['parameters']:,} parameters")
    if options["vocab"] is None:
        print("no tokenizer and no processor: give --vocab to have them")
    for task, settings in facts["settings_of_tasks"].items():
        print(f"these weights need, for the task {task}: {settings}")


def _init(settings: Path, out: Path, image: Any, video: Any, audio: Any, **options: Any) -> None:
    from unival.model.convert import initialise

    given = {"image": image, "video": video, "audio": audio}
    encoders = {modality: path for modality, path in given.items() if path is not None}
    facts = initialise(settings, out, encoders=encoders, **options)
    print(f"{out}: started from {facts['started_from'] or 'random weights'}")


def _export(folder: Path, out: Path, half: bool) -> None:
    from unival.model.convert import export

    print(f"{out}: {export(folder, out, half)} tensors")


def _onnx(folder: Path, out: Path, **shapes: Any) -> None:
    from unival.model.convert.graphs import Shapes, export_graphs

    record = export_graphs(folder, out, Shapes(**shapes))
    print(f"{out}: {', '.join(record['files'])}")


def main(arguments: list[str] | None = None) -> None:
    """`unival convert`."""
    options = vars(_parser().parse_args(arguments))
    options.pop("act")(**options)
