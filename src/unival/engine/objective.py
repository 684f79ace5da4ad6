"""The model together with its loss: what an update runs, and what DDP and FSDP wrap.

B examples, T target tokens, V vocabulary, N tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unival.engine.batches.collate import Batch, ExampleGroup
from unival.engine.settings import LossConfig
from unival.model.loss import IGNORED, sequence_loss
from unival.model.modeling import UnivalForConditionalGeneration


class TokenLoss(nn.Module):
    """Token losses of a group of examples, summed."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits_BTV: Tensor, part: ExampleGroup, drop_worst: float) -> Tensor:
        """Of the group's logits; `drop_worst` as of `sequence_loss`."""
        return sequence_loss(
            logits_BTV,
            part.labels_BT,
            weights_B=part.weights_B,
            smoothing=self.config.smoothing,
            encouraging=self.config.encouraging,
            allowed_BTV=part.allowed_BTV,
            drop_worst=drop_worst,
        )[0]


class LossModule(nn.Module):
    """Token losses of a micro-batch, summed."""

    def __init__(self, model: UnivalForConditionalGeneration, loss: LossConfig, num_tasks: int) -> None:
        super().__init__()
        self.model = model
        self.loss = TokenLoss(loss)
        self.num_tasks = num_tasks

    def forward(
        self, batch: Batch, by_task: bool, drop_worst: float, absent: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Summed token loss, and with `by_task` (tasks, 2): plain negative log-likelihood and token count.

        The encoders of `absent` media get a gradient of zero instead of none.
        """
        total, sums_N2 = batch.parts[0].labels_BT.new_zeros((), dtype=torch.float32), None
        media_tokens = self.model.encoder.embed_media(**batch.media)
        for modality in absent:
            for parameter in self.model.encoder.media[modality].parameters():
                total = total + 0.0 * parameter.flatten()[0]
        for part in batch.parts:
            logits_BTV = self.model(**part.inputs, media_tokens=media_tokens, use_cache=False).logits
            total = total + self.loss(logits_BTV, part, drop_worst)
            if by_task:
                sums = self._by_task(logits_BTV.detach(), part)
                sums_N2 = sums if sums_N2 is None else sums_N2 + sums
        return total, sums_N2

    @torch.no_grad()
    def _by_task(self, logits_BTV: Tensor, part: ExampleGroup) -> Tensor:
        labels_BT = part.labels_BT
        nll_BT = F.cross_entropy(
            logits_BTV.float().transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none"
        )
        sums_B2 = torch.stack([nll_BT.sum(1), (labels_BT != IGNORED).sum(1).float()], dim=1)
        zeros_N2 = torch.zeros(self.num_tasks, 2, device=sums_B2.device)
        return zeros_N2.index_add_(0, part.task_B, sums_B2)
