"""Position ids, relative buckets and the attention biases made of them.

The model adds no position vector to its inputs. Every attention carries an additive bias instead: an absolute
part, computed once per stack from the normalised position embeddings, and in self-attention a relative part
from tables of each layer and head (UnIVAL, following OFA and "Rethinking Positional Encoding", TUPE).

B rows, U distinct layouts of rows, N layers, H heads, L encoder tokens, Q queries, K keys, D width.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from unival.device import sent
from unival.errors import UserError
from unival.model.configuration import UnivalConfig
from unival.model.linear import Linear

T = TypeVar("T")
Segment = tuple[str, tuple[int, ...]]  # modality and the grid of its feature map


def token_bucket(distance: Tensor, size: int, max_distance: int) -> Tensor:
    """Index into a table of 2 * size - 1 rows for query minus key: exact up to size / 2, then logarithmic."""
    middle = size // 2
    magnitude = distance.abs().clamp(min=1)
    growth = torch.log(magnitude / middle) / math.log((max_distance - 1) / middle)
    far = middle + torch.ceil(growth * (middle - 1)).long()
    index = torch.where(magnitude <= middle, distance, distance.sign() * far)
    return index.clamp(1 - size, size - 1) + size - 1


def grid_bucket(queries: Tensor, keys: Tensor, size: int) -> Tensor:
    """Index into a table of (2 * size - 1) ** 2 + 3 rows for ids on a grid `size` wide; 0 is off the grid."""
    query_Q1, key_1K = queries[:, None] - 1, keys[None, :] - 1
    rows = query_Q1.div(size, rounding_mode="floor") - key_1K.div(size, rounding_mode="floor")
    columns = query_Q1.remainder(size) - key_1K.remainder(size)
    width = 2 * size - 1
    index_QK = (rows + size - 1) * width + columns + size - 1
    index_QK = torch.where(query_Q1 < 0, width * width, index_QK)
    off_key = torch.where(query_Q1 < 0, width * width + 2, width * width + 1)
    return torch.where(key_1K < 0, off_key, index_QK)


def segment_ids(segment: Segment, size: int) -> Tensor:
    """Position ids of a medium's tokens on the grid `size` wide (1 is the upper left corner).

    Images use their own grid; every time slot of a video repeats it, so time has no position; audio tokens,
    time-major, fill the rows of a square.

    Raises:
        UserError: the feature map is larger than the grid.
    """
    kind, grid = segment
    height, width = grid[-2:]
    if kind == "audio":
        tokens = height * width
        height = width = math.isqrt(tokens - 1) + 1
        index = torch.arange(tokens)
    else:
        index = torch.arange(height * width).repeat(grid[0] if len(grid) == 3 else 1)
    if max(height, width) > size:
        raise UserError(
            f"{kind}: {'x'.join(map(str, grid))} features, and positions for {size}x{size}: the model needs "
            "smaller media: check its processor_config.json"
        )
    return index // width * size + index % width + 1


def code_ids(length: int, code_width: int, size: int) -> Tensor:
    """Position ids of BOS (0) and image codes, by rows of a square `code_width` wide, on the grid."""
    if length > code_width**2 + 1:
        raise ValueError(
            f"{length} decoder positions, but an image has {code_width}x{code_width} codes after BOS"
        )
    index = torch.arange(length - 1)
    return torch.cat([torch.zeros(1, dtype=torch.long), index // code_width * size + index % code_width + 1])


@lru_cache(maxsize=256)
def text_relative_index(start: int, stop: int, size: int, max_distance: int, device: torch.device) -> Tensor:
    """(stop - start, stop) rows of a token table for queries start..stop-1 and keys 0..stop-1."""
    queries, keys = torch.arange(start, stop), torch.arange(stop)
    return sent(token_bucket(queries[:, None] - keys[None, :], size, max_distance), device)


@lru_cache(maxsize=256)
def encoder_relative_index(
    layout: tuple[Segment, ...],
    media_length: int,
    text_length: int,
    config_key: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """(L, L) rows of the joined table [token rows, grid rows, one zero row] for one layout of an encoder row.

    Text attends to text by token distance, a medium to itself by grid offset; all other pairs have no
    relative term (the zero row).
    """
    size, max_distance, grid = config_key
    token_rows, grid_rows = 2 * size - 1, (2 * grid - 1) ** 2 + 3
    length = media_length + text_length
    index_LL = torch.full((length, length), token_rows + grid_rows)
    offset = 0
    for segment in layout:
        ids = segment_ids(segment, grid)
        block = slice(offset, offset + len(ids))
        index_LL[block, block] = token_rows + grid_bucket(ids, ids, grid)
        offset += len(ids)
    text = slice(media_length, length)
    index_LL[text, text] = text_relative_index(0, text_length, size, max_distance, torch.device("cpu"))
    return sent(index_LL, device)


class Table(nn.Embedding):
    """An embedding that is used as a whole.

    Its forward gives the weight: what brings weights from elsewhere (accelerate, FSDP) does so for forwards.
    """

    def forward(self) -> Tensor:  # type: ignore[override]
        """(rows, columns)."""
        return self.weight


class RelativeTables(nn.Module):
    """The learned relative biases of a stack: each layer has a token and a grid table, a column per head."""

    def __init__(self, config: UnivalConfig, layers: int, heads: int) -> None:
        super().__init__()
        rows = (2 * config.token_bucket_size - 1, (2 * config.image_bucket_size - 1) ** 2 + 3)
        self.token, self.grid = (nn.ModuleList(Table(n, heads) for _ in range(layers)) for n in rows)
        self.heads = heads

    @staticmethod
    def _joined(tables: nn.ModuleList) -> Tensor:
        return torch.cat([table() for table in tables], dim=1)

    def _lookup(self, table: Tensor, index_QK: Tensor) -> list[Tensor]:
        bias_QKn = nn.functional.embedding(index_QK, table)
        return list(bias_QKn.unflatten(-1, (-1, self.heads)).movedim((-2, -1), (0, -3)).unbind(0))

    def text(self, index_QK: Tensor) -> list[Tensor]:
        """(..., H, Q, K) for each layer."""
        return self._lookup(self._joined(self.token), index_QK)

    def codes(self, index_QK: Tensor) -> list[Tensor]:
        """(H, Q, K) for each layer."""
        return self._lookup(self._joined(self.grid), index_QK)

    def mixed(self, index_ULL: Tensor) -> list[Tensor]:
        """(U, H, L, L) for each layer, from indices of `encoder_relative_index`."""
        table = torch.cat([self._joined(self.token), self._joined(self.grid)])
        return self._lookup(nn.functional.pad(table, (0, 0, 0, 1)), index_ULL)


class AbsoluteBias(nn.Module):
    """Content-free attention between positions: scaled products of projected position states."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.query, self.key = Linear(width, width), Linear(width, width)
        self.heads, self.scale = heads, scale

    def queries(self, positions: Tensor) -> Tensor:
        """(U, Q, D) -> (U, H, Q, D / H), scaled."""
        return (self.query(positions) * self.scale).unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def keys(self, positions: Tensor) -> Tensor:
        """(U, K, D) -> (U, H, D / H, K)."""
        return self.key(positions).unflatten(-1, (self.heads, -1)).movedim(-3, -1)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """(U, Q, D) and (U, K, D) -> (U, H, Q, K)."""
        return self.queries(query_positions) @ self.keys(key_positions)


MOST_BIASES = 32
"""That a cache remembers."""


class BiasCache:
    """Remembers biases between evaluation calls; forgets them when a parameter they depend on has changed.

    A change is seen by the parameter's storage or its version counter, which every in-place update raises (an
    assignment through `.data` does not: call `clear`). Nothing is kept while gradients are recorded.
    """

    def __init__(self) -> None:
        self.entries: OrderedDict[object, object] = OrderedDict()
        self.state: object = None

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()

    def get(self, key: object, parameters: Iterable[Tensor], compute: Callable[[], T]) -> T:
        """`compute()`, or its remembered result for this key."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        parameters = list(parameters)
        if any(parameter.is_inference() for parameter in parameters):
            return compute()
        autocast = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
        state = (autocast, [(parameter.data_ptr(), parameter._version) for parameter in parameters])
        if state != self.state:
            self.clear()
            self.state = state
        if key not in self.entries:
            self.entries[key] = compute()
        self.entries.move_to_end(key)
        while len(self.entries) > MOST_BIASES:
            self.entries.popitem(last=False)
        return self.entries[key]  # type: ignore[return-value]


def mask_value(dtype: torch.dtype) -> float:
    """What a masked score is replaced by: finite, so that a row without any key stays free of NaN."""
    return torch.finfo(dtype).min
