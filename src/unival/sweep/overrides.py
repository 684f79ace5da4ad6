"""The command line of a sweep, read before anything is made."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from unival import compose
from unival.errors import UserError, nearest
from unival.stages import STAGES


def read(arguments: Sequence[str]) -> list[str]:
    """The words as Hydra gets them.

    Raises:
        UserError: several values, and neither `-m` nor a preset, which chooses multirun itself.
    """
    given = [override(word) for word in arguments]
    several = next((word.input_line for word in _parsed(given) if word.is_sweep_override()), None)
    if several and not {"-m", "--multirun"} & set(given) and preset(given) is None:
        raise UserError(f"sweep: {shown([several])} has several values: add -m, and each of them is a job")
    return given


def override(word: str) -> str:
    """`set.` adds keys without `+`; `stage` would be read as the configuration group of that name."""
    if word.startswith("stage="):
        return word.replace("stage=", "stage_name=", 1)
    return f"++{word}" if word.startswith("set.") else word


def shown(words: Sequence[str]) -> str:
    """Overrides as a person types them."""
    return " ".join(word.lstrip("+").replace("stage_name=", "stage=") for word in words)


def _parsed(given: Sequence[str]) -> list[Any]:
    """The overrides among the words of the command line, parsed by Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    words = [word for word in given if "=" in word and not word.startswith("-")]
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"sweep: {' '.join(str(error).split())}") from error


def constant(given: Sequence[str]) -> set[str]:
    """Keys of overrides that have one value in all jobs."""
    return {word.get_key_element() for word in _parsed(given) if not word.is_sweep_override()}


def preset(given: Sequence[str]) -> str | None:
    """The file of conf/sweep/ that was chosen."""
    return next((str(word.value()) for word in _parsed(given) if word.key_or_group == "sweep"), None)


def stage(params: compose.Params, given: Sequence[str]) -> str:
    """The stage that is swept; what is wrong with its first job is told before anything is made.

    Raises:
        UserError: no stage or an unknown one, or the first job's configuration is wrong.
    """
    tree = compose.compose(params, [*_first_job(given)])
    name = tree.get("stage_name")
    if name is None:
        raise UserError("sweep: no stage is chosen: add stage=finetune, or a preset: +sweep=<name>")
    if name not in STAGES:
        raise UserError(f"sweep: unknown stage '{name}': {nearest(str(name), STAGES)}")
    if preset(given) is None:  # its own lists of values are Hydra's to read
        compose.resolve(tree, str(name), tree.item)
    return str(name)


def _first_job(given: Sequence[str]) -> Iterator[str]:
    """The overrides of the first job: of several values the first one. Others are Hydra's to know.

    Raises:
        UserError: an interval, and no sweeper that chooses values in it.
    """
    from hydra.core.override_parser.types import Glob, IntervalSweep

    words = _parsed(given)
    chosen = any(word.key_or_group == "hydra/sweeper" for word in words)
    for word in words:
        if word.is_hydra_override() or isinstance(word.value(), Glob):
            continue
        key, value = word.get_key_element(), word.value()
        if isinstance(value, IntervalSweep):
            if not chosen:
                fix = "add hydra/sweeper=random or hydra/sweeper=tpe, which choose values in it"
                raise UserError(f"sweep: {shown([word.input_line])} is an interval: {fix}")
            yield f"{key}={value.start}"
        elif word.is_discrete_sweep():
            yield f"{key}={next(iter(word.sweep_string_iterator()))}"
        else:
            yield str(word.input_line)


def count_in_decimals() -> None:
    """`range(0,1,0.1)` gives 0.7: Hydra adds up what 0.1 is in binary, 0.7000000000000001."""
    from hydra.core.override_parser.types import FloatRange

    def exact(self: Any) -> None:
        for end in ("start", "stop", "step"):
            setattr(self, end, Decimal(str(getattr(self, end))))

    FloatRange.__post_init__ = exact  # type: ignore[method-assign]
