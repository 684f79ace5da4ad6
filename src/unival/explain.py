"""Which file set a value of a resolved configuration, and over which others.

A key of a resolved file gets its value in an order: defaults of the code, the shape (`conf/stage/`) with the
parts that it takes from the groups, the overlays (`unival.compose`). `history` lists all of it; `unused`
finds what a person has edited to no effect.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unival import compose, config, provenance
from unival.compose import COLLECTED, CONF, GROUPS, ITEMS, PARAMS, Params
from unival.errors import UserError, nearest
from unival.stages import STAGES

REFERENCE = re.compile(r"\$\{((?:[\w.]|\$\{\w+\})+)\}")
"""A value that stands elsewhere in the tree; `${item}` may be a part of the place's name."""
FROM_PARAMS = {"edition_name": "edition", "chosen_tasks": "tasks", "starts": "phases"}
"""Names in the tree of keys of `params.yaml` that are called otherwise there."""


@dataclass(frozen=True)
class Setting:
    """A value, and where it stands."""

    file: str
    key: str
    value: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.key} = {_short(self.value)}"


def history(tree: Any, params: Params, stage: str, item: str | None) -> dict[str, list[Setting]]:
    """For every dotted key of the resolved file the settings of it in their order; the last one counts.

    None at all: the default of the code.

    Raises:
        UserError: the configuration cannot be resolved.
    """
    resolved = config.flat(compose.resolve(tree, stage, item))
    settings = list(_settings(tree, params, stage, item))
    below = defaultdict(list)  # dotted key -> numbers of the settings at it and below it
    at = defaultdict(list)
    for number, (key, _) in enumerate(settings):
        at[key].append(number)
        for place in _prefixes(key):
            below[place].append(number)
    settings_of = {}
    for key in resolved:
        above = [number for place in _prefixes(key) if place != key for number in at[place]]
        settings_of[key] = [settings[number][1] for number in sorted(above + below[key])]
    return settings_of


def lines(params: Params, words: list[str]) -> Iterator[str]:
    """The answer to `unival compose --explain <stage> [<item>] [<key>]`.

    Raises:
        UserError: no such stage, item or key.
    """
    stage, *rest = words
    if stage not in STAGES:
        raise UserError(f"unknown stage '{stage}': {nearest(stage, STAGES)}")
    item = rest.pop(0) if stage in ITEMS and rest else None
    tree = compose.compose(params)
    values = config.flat(compose.resolve(tree, stage, item))
    known = history(tree, params, stage, item)
    for wanted in rest or [""]:
        keys = [key for key in known if not wanted or f"{key}.".startswith(f"{wanted}.")]
        if not keys:
            places = {place for key in known for place in _prefixes(key)}
            raise UserError(f"{compose.file_of(stage, item)}: no key '{wanted}': {nearest(wanted, places)}")
        for key in keys:
            yield f"{key} = {_short(values[key])}"
            settings = [str(setting) for setting in known[key]] or ["default of the code"]
            yield f"    {settings[-1]}"
            yield from (f"    over {setting}" for setting in reversed(settings[:-1]))


def unused(params: Params) -> Iterator[str]:
    """One line for every value of `params.yaml` and `conf/` that differs from the commit to no effect."""
    edited = {(file, key) for file, keys in _edited(params) for key in keys}
    if not edited:
        return
    tree, effective = compose.compose(params), set()
    beaten: dict[tuple[str, str], tuple[Setting, Setting]] = {}
    for stage in STAGES:
        for item in params.items(stage):
            for settings in history(tree, params, stage, item).values():
                for setting in settings:
                    place = (setting.file, setting.key)
                    if setting.value == settings[-1].value:
                        effective.add(place)
                    else:
                        beaten.setdefault(place, (setting, settings[-1]))
    for place in sorted(edited - effective):
        if place in beaten:
            setting, last = beaten[place]
            yield f"{setting} is overridden by {last}"
        else:
            yield f"{place[0]}: {place[1]} is read by no stage of this choice"


def _settings(tree: Any, params: Params, stage: str, item: str | None) -> Iterator[tuple[str, Setting]]:
    """(dotted key of the resolved file, setting), in the order in which they are applied."""
    from omegaconf import OmegaConf

    values = config.flat(compose.shape(tree, stage, item))
    raw = OmegaConf.to_container(tree.stages[stage], resolve=False)
    moved = []
    for key, place in _places(tree, raw, f"stages.{stage}", ""):
        own = key.removeprefix("train.") if key.startswith("train.processor.") else key
        setting = Setting(*_file_of(params, place), values.get(own))
        if own == key:
            yield own, setting
        else:
            moved.append((own, setting))
    yield from moved
    for overlay in compose.overlays(tree, stage, item):
        for key, value in config.flat(overlay.values).items():
            if value != {}:  # laid over a mapping it changes nothing
                yield key, Setting(overlay.source, f"{overlay.key}.{key}", value)


def _places(tree: Any, raw: Any, place: str, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, place in the tree where its value stands) of every leaf of an unresolved value."""
    from omegaconf import OmegaConf

    if isinstance(raw, str) and (reference := REFERENCE.fullmatch(raw)):
        place = re.sub(r"\$\{(\w+)\}", lambda name: str(tree[name[1]]), reference[1])
        node = OmegaConf.select(tree, place)
        raw = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
        if not isinstance(raw, str):
            yield from _places(tree, raw, place, key)
            return
    if isinstance(raw, dict) and raw:
        for name, inner in raw.items():
            yield from _places(tree, inner, f"{place}.{name}", f"{key}.{name}" if key else str(name))
    else:
        yield key, place


def _file_of(params: Params, place: str) -> tuple[str, str]:
    """The file, and the dotted key in it, of a place in the tree."""
    head, *rest = place.split(".")
    for group, plural in COLLECTED.items():
        if head == plural:
            return f"{CONF}/{group}/{rest[0]}.yaml", ".".join(rest[1:])
    if (CONF / f"{head}.yaml").is_file():
        return f"{CONF}/{head}.yaml", ".".join(rest)
    if head in GROUPS:
        return f"{CONF}/{head}/{getattr(params, head)}.yaml", ".".join(rest)
    after = ["after"] if head == "starts" else []
    return str(PARAMS), ".".join([FROM_PARAMS.get(head, head), *rest, *after])


def _edited(params: Params) -> Iterator[tuple[str, list[str]]]:
    """Files that the chosen configuration is made of, with their keys that differ from the last commit."""
    names = provenance.git("diff", "--name-only", "HEAD", "--", str(CONF), str(PARAMS)).splitlines()
    names += provenance.git("ls-files", "--others", "--exclude-standard", "--", str(CONF)).splitlines()
    chosen = {f"{CONF}/{group}/{getattr(params, group)}.yaml" for group in GROUPS}
    for name in names:
        path = Path(name)
        if not path.is_file() or not (path == PARAMS or name in chosen or path.parts[1] in COLLECTED):
            continue
        before = config.parse(provenance.git("show", f"HEAD:./{name}"), f"{name} of the last commit") or {}
        then, now = config.flat(before), config.flat(config.load(path))
        keys = [key for key, value in now.items() if key not in then or then[key] != value]
        yield name, [key for key in keys if path != PARAMS or key.startswith("set.")]


def _prefixes(key: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    names = key.split(".")
    return [".".join(names[: count + 1]) for count in range(len(names))]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
