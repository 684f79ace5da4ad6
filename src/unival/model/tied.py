"""Token embedding that shares the gradient of the output projection it is tied to.

B rows, T tokens, V vocabulary, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _Lookup(torch.autograd.Function):
    """Rows of a table, and the table itself for the next use.

    Autograd would give every lookup a dense gradient of V x D and add them all up. Here the table flows
    through: its gradient from later uses arrives together with that of the rows, which is added in place.
    """

    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, ids_BT: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids_BT)
        ctx.pad_id, ctx.shape = pad_id, table_VD.shape
        ctx.set_materialize_grads(False)
        return F.embedding(ids_BT, table_VD), table_VD.view_as(table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows_BTD: Tensor | None, table_VD: Tensor | None) -> tuple[Tensor | None, ...]:
        if rows_BTD is None:
            return table_VD, None, None
        (ids_BT,) = ctx.saved_tensors
        if table_VD is None:
            table_VD = rows_BTD.new_zeros(ctx.shape)
        rows_BTD = rows_BTD.masked_fill((ids_BT == ctx.pad_id)[..., None], 0.0)
        return table_VD.index_put_((ids_BT,), rows_BTD.to(table_VD.dtype), accumulate=True), None, None


def lookup(table_VD: Tensor, ids_BT: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, T, D) of tokens, and the table to use from now on in place of `table_VD`.

    The table that is returned must go to matrix products (or further lookups) only: gradients that arrive for
    it are written to. Rows of `pad_id` get no gradient.
    """
    return _Lookup.apply(table_VD, ids_BT, pad_id)  # type: ignore[no-any-return]
