"""YAML in and out, and from a mapping to typed dataclasses, strictly.

`load` is the only reader of YAML: it takes numbers, dates and repeated keys as Hydra does, so a text means
the same in `params.yaml`, `conf/`, a resolved file and a recipe. `build` fills a dataclass from a mapping. An
unknown key, a missing key or a value of the wrong type is an error that names the file, the dotted key and
the nearest valid key. The dataclasses live beside the code that reads them.
"""

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from unival import limits
from unival.errors import UserError, nearest
from unival.files import larger, regular

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Reads as OmegaConf does; the third difference to YAML 1.1: a key that appears twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    "in a mapping", node.start_mark, f"key '{key.value}' appears twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""


_FLOAT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""Exponents without a point or a sign: 5e-05 is what DVC and Python write, and a text in YAML 1.1."""
_Loader.yaml_implicit_resolvers = {  # 2026-01-01 stays a text
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def parse(text: str, where: str) -> Any:
    """What a YAML text holds.

    Raises:
        UserError: it is none, or a mapping has a key twice; `where` starts the message.
    """
    try:
        value = yaml.load(text, _Loader)
    except RecursionError as error:
        raise UserError(f"{where}: not a YAML file of ours: nested too deep") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # all but the first: of PyYAML's constructors, where a tag or a form promises what the text is not
        raise UserError(f"{where}: not a YAML file: {' '.join(str(error).split())}") from error
    if larger(value, 10 * len(text) + 10):
        raise UserError(f"{where}: its anchors multiply to more than it can honestly hold: write it out")
    return value


def dump(values: Mapping[str, Any] | list[Any]) -> str:
    """YAML text of a mapping, with the keys in their order, or of a list of them."""
    plain = values if isinstance(values, list) else dict(values)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def load(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, unreadable, no regular file, not YAML or not a mapping.
    """
    path = Path(path)
    try:
        if regular(path).st_size > limits.YAML_BYTES:
            raise UserError(f"{path}: more than {limits.YAML_BYTES} bytes")
        content = parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping at the top level, found {type(content).__name__}")
    return content


def overlay(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `over` laid on them: mappings key by key at any depth, everything else replaced."""
    laid = dict(values)
    for key, value in over.items():
        below = laid.get(key)
        deeper = isinstance(below, Mapping) and isinstance(value, Mapping)
        laid[key] = overlay(below, value) if deeper else value  # type: ignore[arg-type]
    return laid


def flat(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Dotted keys of the leaves; lists and empty mappings are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{start}{key}.")
        else:
            leaves[f"{start}{key}"] = value
    return leaves


def pick(values: Mapping[str, Any], names: Iterable[str], what: str) -> dict[str, Any]:
    """The named of `values`, in their order.

    Raises:
        UserError: a name is none of them; `what` they are stands in the message.
    """
    wanted = set(names)
    for name in sorted(wanted - set(values)):
        raise UserError(f"conf: unknown name '{name}' among the {what}: {nearest(name, values)}")
    return {name: value for name, value in values.items() if name in wanted}


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Fill dataclass `cls` from `mapping`; `where` (file, or file and dotted key) starts every message.

    Nested dataclasses, lists, tuples, dictionaries, optionals, unions and `Literal` are followed; an int is
    accepted for a float. Cross-field checks belong in `__post_init__` and may raise ValueError.

    Raises:
        UserError: an unknown or missing key, a value of another type, or one that the class refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}': {nearest(str(key), fields)}")
    values = {key: convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: missing key{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def convert(hint: Any, value: Any, where: str) -> Any:
    """The value as a type hint wants it: whole numbers as floats, texts as paths, mappings as dataclasses.

    Raises:
        UserError: of another type; `where` starts the message.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            hint_text = nearest(str(value), map(str, arguments))
            raise UserError(f"{where}: {_shown(value)} is not a valid value: {hint_text}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a mapping, found {_shown(value)}")
        return build(hint, value, where)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, found {_shown(value)}")
        if origin is tuple and ... not in arguments and len(value) != len(arguments):
            raise UserError(f"{where}: expected {len(arguments)} values, found {_shown(value)}")
        inner = arguments[0] if arguments else Any
        return origin(convert(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a mapping, found {_shown(value)}")
        return {
            convert(arguments[0], key, f"{where}: key"): convert(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    return _convert_scalar(hint, value, where)


def check_names(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that cannot be a folder and a metric's name at MLflow."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
            raise ValueError(
                f"{what}: {_shown(name)} is not a name of a folder: give letters, digits, '_', '-' and '.'"
            )


def _shown(value: Any) -> str:
    """A value in a message: what a damaged file holds may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    failures = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(option, value, where)
        except UserError as error:
            failures.append(error)
    raise failures[0]


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not -sys.float_info.max <= value <= sys.float_info.max:
            raise UserError(f"{where}: expected a finite number, found {_shown(value)}")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {hint.__name__}, found {_shown(value)}")
    return value
