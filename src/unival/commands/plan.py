"""`unival plan`: what a training run will take, before a machine is booked.

    unival plan +experiment=paper/s1 --device h100 --ranks 8 --bandwidth 400 --price 2.5
    unival plan stage=finetune item=vqa --device 24,165

The words before the options are those of `unival sweep` for one job. One update is run on tensors without
values: it needs neither data, nor weights, nor a GPU.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unival import compose, config
from unival.engine.planning import devices
from unival.errors import UserError
from unival.sweep.overrides import override

if TYPE_CHECKING:
    from unival.engine.planning.step import Training

STAGES = ("pretrain", "finetune")


def main(arguments: list[str]) -> None:
    """Print the plan.

    Raises:
        UserError: a stage that trains nothing, an unknown device, or rows that cannot be dealt to the ranks.
    """
    options = _parser().parse_intermixed_args(arguments)
    from unival.engine.planning.plan import Site, plan
    from unival.engine.planning.text import lines

    device = devices.read(options.device)
    site = Site(device, options.ranks, options.bandwidth * 1e9, options.utilisation, options.price)
    job = read(options.words, *options.tokens)
    made = plan(job, site)
    if options.json:
        print(json.dumps(dataclasses.asdict(made), indent=1))
    else:
        print("\n".join(lines(made, job, site)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="+", metavar="<word>", help="+experiment=<name>, stage=, item=, key=value"
    )
    parser.add_argument(
        "--device",
        required=True,
        help=f"{', '.join(devices.DEVICES)}, or <GiB>,<TFLOP/s>",
    )
    parser.add_argument("--ranks", type=int, default=1, help="GPUs (default 1)")
    parser.add_argument("--bandwidth", type=float, default=100.0, help="GB/s of a rank's link (default 100)")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.4,
        help="share of the device's rate that is reached (default 0.4)",
    )
    parser.add_argument("--price", type=float, help="price of a GPU hour, in any currency")
    parser.add_argument(
        "--tokens", type=_tokens, default=(30, 20), metavar="<prompt>,<target>",
        help="tokens of the longest example of a micro-batch (default 30,20)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="all figures, in bytes, FLOPs and seconds")
    return parser


def _tokens(text: str) -> tuple[int, int]:
    try:
        prompt, target = map(int, text.split(","))
    except ValueError:
        prompt = target = 0
    if min(prompt, target) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not <prompt>,<target>, as 30,20")
    return prompt, target


def read(words: list[str], prompt_tokens: int, target_tokens: int) -> "Training":
    """The training run that these words choose, with the model of `conf/model/`, whose vocabulary is that of
    the prepared data where they are there, else the paper's.

    Raises:
        UserError: no stage that trains, or a wrong value.
    """
    from unival.engine.planning.step import Training
    from unival.engine.settings import TrainConfig
    from unival.model.configuration import UnivalConfig
    from unival.model.processing import ProcessorSettings
    from unival.vocab import UnivalTokenizer

    tree = compose.compose(compose.read_params(), [override(word) for word in words])
    stage = tree.get("stage_name")
    if stage not in STAGES:
        raise UserError(
            f"plan: {stage or 'no stage'} is chosen: add stage=<{' or '.join(STAGES)}> item=<name>"
        )
    values = compose.resolve(tree, str(stage), tree.item)
    model = compose.chosen_model(tree)
    tokenizer = Path(values["data"]) / "tokenizer"
    size = len(UnivalTokenizer.from_folder(tokenizer)) if tokenizer.is_dir() else UnivalConfig.vocab_size
    sizes = config.overlay(model["processor"], values["processor"])
    train = config.build(TrainConfig, values["train"], "train")
    media = {stream.task: values["tasks"][stream.task]["modality"] for stream in train.mixture.streams}
    return Training(
        train,
        UnivalConfig.from_settings(model["config"], size, "model"),
        config.build(ProcessorSettings, sizes, "processor"),
        media,
        prompt_tokens,
        target_tokens,
    )
