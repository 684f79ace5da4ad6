"""What a training run is: all of it changes the result, so it is part of the resolved configuration."""

from dataclasses import dataclass, field
from typing import Literal

from unival.engine.mixture import MixtureConfig
from unival.engine.optim import OptimizerConfig


@dataclass(frozen=True)
class LossConfig:
    """Token loss; formulas in `unival.model.loss` (reference 3.1)."""

    smoothing: float = 0.0
    """Share of the target spread over the other tokens."""
    encouraging: bool = False
    """Adds a bonus that keeps the gradient of confident tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}: it must be at least 0 and below 1")


@dataclass(frozen=True)
class SelectionConfig:
    """Keep the weights that are best on validation rows, never on test rows."""

    every: int
    """Steps between validations; the last step is always validated."""
    rows: int
    """Rows validated, from the start of the split."""
    split: Literal["val"] = "val"

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise ValueError(f"selection: every {self.every} and rows {self.rows} must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """One phase of pretraining, or one finetuning."""

    steps: int
    """Updates of the weights."""
    mixture: MixtureConfig
    optimizer: OptimizerConfig
    seed: int
    examples: Literal["pretraining", "finetuning"] = "finetuning"
    """Two examples a row (main and matching; grounding and grounded caption), or the task's own."""
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and optimiser stay float32."""
    accumulate: int = 1
    """Micro-batches per rank and update."""
    freeze: list[str] = field(default_factory=list)
    """Patterns of module or parameter names, e.g. `model.embed_tokens` or `*image_encoder*`."""
    freeze_batch_norm: bool = False
    """Batch norms keep their statistics and weights."""
    ema: float = 0.0
    """Decay of the moving average that is validated and published; 0: none."""
    compile: bool = False
    """torch.compile."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass to save memory."""
    spike: float = 6.0
    """Stop when the loss of a step lies this many nats per token above its running mean; 0: never."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept beside the best."""
    log_every: int = 20
    """Steps between log lines."""
    selection: SelectionConfig | None = None
    """None: the last weights are the result."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}: it must be at least 0 and below 1")
