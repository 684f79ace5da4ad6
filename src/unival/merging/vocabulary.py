"""Embedding rows matched by token, for models whose tokenizers number tokens differently.

The reference is a model whose tokens include those of all others; the merged model has its tokenizer. A row
that a model lacks is filled with the mean of the models that have it, so that it takes no side.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unival import files
from unival.errors import UserError
from unival.merging.checkpoint import TensorSource
from unival.weights import TensorSpec, cast

TOKENS = 2**22
"""More than any vocabulary has."""


def read_tokens(folder: Path) -> list[str]:
    """The tokens of tokenizer.json by their numbers.

    Raises:
        UserError: no tokenizer.json, or one without a vocabulary.
    """
    file = folder / "tokenizer.json"
    content = files.read_json(file)
    try:
        vocabulary = content["model"]["vocab"]
        pairs = (
            vocabulary.items()
            if isinstance(vocabulary, dict)
            else ((t[0], i) for i, t in enumerate(vocabulary))
        )
        numbers = dict(pairs) | {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
        if not all(type(number) is int and 0 <= number < TOKENS for number in numbers.values()):
            raise ValueError(f"the numbers of tokens are not whole numbers below {TOKENS}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: no vocabulary can be read ({error}): rows cannot be matched by token"
        ) from error
    if not numbers:
        raise UserError(f"{file}: has no tokens: rows cannot be matched by token")
    tokens = [f"\0unused {i}" for i in range(max(numbers.values()) + 1)]
    for token, number in numbers.items():
        tokens[number] = token
    return tokens


def reference_of(tokens: Mapping[str, Sequence[str]]) -> str:
    """The first model whose tokens include all others'.

    Raises:
        UserError: there is none; names tokens that are in the way.
    """
    wanted = {token for known in tokens.values() for token in known if not token.startswith("\0")}
    for name, known in tokens.items():
        if wanted <= set(known):
            return name
    name = max(tokens, key=lambda n: len(tokens[n]))
    missing = sorted(wanted - set(tokens[name]))
    raise UserError(
        f"vocabulary: no model has all tokens: '{name}', the largest, is missing {len(missing)}, such as "
        f"{missing[:3]}: extend one tokenizer first"
    )


class RowAligned:
    """A source seen through the vocabulary of the reference."""

    def __init__(
        self,
        name: str,
        sources: Mapping[str, TensorSource],
        tokens: Mapping[str, Sequence[str]],
        reference: str,
        pattern: str,
    ) -> None:
        self.label = sources[name].label
        self._name, self._sources = name, sources
        self._rows = {other: _places(tokens[reference], tokens[other]) for other in sources}
        self.specs: dict[str, TensorSpec] = dict(sources[name].specs)
        self._aligned = {key for key in self.specs if re.search(pattern, key) and self.specs[key].shape}
        for key in self._aligned:
            wide = sources[reference].specs.get(key)
            if wide is None or wide.shape[1:] != self.specs[key].shape[1:]:
                raise UserError(f"vocabulary: {key}: not in '{reference}', or of another width")
            self.specs[key] = replace(self.specs[key], shape=wide.shape)

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        """Elements of a tensor; of an aligned one in the reference's order of rows.

        A token that this model lacks has the mean of the models that know it.
        """
        if name not in self._aligned:
            return self._sources[self._name].read(name, start, count, buffer)
        spec = self.specs[name]
        width = int(np.prod(spec.shape[1:], dtype=np.int64))
        first, last = start // width, -(-(start + count) // width)
        rows, known = self._gather(self._name, name, first, last, width)
        if not known.all():
            total, owners = torch.zeros(last - first, width), torch.zeros(last - first, 1)
            for other in self._sources:
                if other != self._name and name in self._sources[other].specs:
                    values, has = self._gather(other, name, first, last, width)
                    total += values.float() * has[:, None]
                    owners += has[:, None]
            mean = cast(total / owners.clamp_min(1), rows.dtype, f"{self.label}: {name}: mean of the others")
            rows[~known] = mean[~known]
        return rows.reshape(-1)[start - first * width : start - first * width + count]

    def _gather(self, model: str, name: str, first: int, last: int, width: int) -> tuple[Tensor, Tensor]:
        """Rows first .. last of the reference from one model, and which of them it has."""
        source = self._sources[model]
        spec = source.specs[name]
        places = np.full(last - first, -1)
        known = self._rows[model][first:last]  # rows past the tokens are padding, kept by number
        places[: len(known)] = known
        places[len(known) :] = np.arange(first + len(known), last)
        places[places >= spec.shape[0]] = -1
        out = torch.zeros(last - first, width, dtype=spec.dtype)
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            if len(run) and places[run[0]] >= 0:
                size = len(run) * width
                memory = torch.empty(size * spec.dtype.itemsize, dtype=torch.uint8)
                values = source.read(name, int(places[run[0]]) * width, size, memory)
                out[run[0] : run[0] + len(run)] = values.view(-1, width)
        return out, torch.from_numpy(places >= 0)


def _places(wanted: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """For each token of the reference its row in another model, -1 where that has none."""
    rows = {token: row for row, token in enumerate(known)}
    return np.array([rows.get(token, -1) for token in wanted], dtype=np.int64)
