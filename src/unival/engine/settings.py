"""What a training run is: all of it changes the result, so it is part of the resolved configuration."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unival.engine.batches.augment import AugmentConfig
from unival.engine.batches.mixture import MixtureConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimiser for all phases and tasks; defaults of reference 2.2."""

    lr: float
    """Peak learning rate."""
    name: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon: AdamW, but Muon for the linear maps and convolutions of layers and media encoders, which then
    learn from fewer examples."""
    weight_decay: float = 0.01
    """Decoupled; on all parameters, as in the original."""
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 5.0
    """Largest global gradient norm; 0: no clipping."""
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    power: float = 1.0
    """Exponent of the polynomial decay; 1 is linear."""
    warmup: float = 0.01
    """Share of the horizon in which the rate rises linearly."""
    horizon: int | None = None
    """Step at which the rate would reach 0; None: the length of training."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Pattern of parameter names -> factor on the rate; the first that matches counts."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}: it must be above 0")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is {self.warmup}: it is a share of the horizon, between 0 and 1")
        if len(self.betas) != 2:
            raise ValueError(f"betas has {len(self.betas)} numbers: give two")


@dataclass(frozen=True)
class LossConfig:
    """Token loss; formulas in `unival.model.loss` (docs/reference.md 3.1)."""

    smoothing: float = 0.0
    """Share of the target spread over the other tokens."""
    encouraging: bool = False
    """Adds a bonus that keeps the gradient of confident tokens."""
    constrained: bool = False
    """Softmax and smoothing over the tokens an answer may have at its place only, for tasks with `constraint:
    answers`."""
    drop_worst: float = 0.0
    """Share of the tokens, those of largest loss, that do not count (noisy targets); per group of examples
    that go through the model together."""
    drop_worst_after: int = 0
    """Updates before `drop_worst` applies."""

    def __post_init__(self) -> None:
        for name in ("smoothing", "drop_worst"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and below 1")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank updates of frozen weights (needs the extra `lora`); merged into the published ones."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: str = r".*(layers)\.\d+\.(self_attn|cross_attn)\.(q_proj|v_proj)"
    """Regular expression of the full names of the linear layers that get one."""


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
class ConflictConfig:
    """Compare the gradients of the tasks during training, which it does not change (docs/training.md)."""

    points: int = 10
    """How often, evenly over the run: at first before the first update, at last after the last one."""
    rows: int = 64
    """Of each of the two batches of a task."""

    def __post_init__(self) -> None:
        if self.points < 2 or self.rows < 1:
            raise ValueError(f"conflict: points {self.points} must be 2 or more, rows {self.rows} 1 or more")

    def steps(self, steps: int) -> set[int]:
        """After how many updates of a run of so many."""
        return {round(number * steps / (self.points - 1)) for number in range(self.points)}


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
    split: Literal["train", "pretrain"] = "train"
    """Whose rows; a task without rows of `pretrain` takes those of `train`."""
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and optimiser stay float32."""
    accumulate: int = 1
    """Micro-batches of an update, over all ranks: at least one each. Train-mode batch norm sees one at once,
    so with as many micro-batches as ranks fewer ranks train the same weights but for rounding; running
    statistics are those of the micro-batches of the first rank."""
    freeze: list[str] = field(default_factory=list)
    """Patterns of module or parameter names, e.g. `shared` (the embeddings) or `encoder.media.image`."""
    train_only: list[str] = field(default_factory=list)
    """Patterns: everything else is frozen. Empty: all that `freeze` leaves."""
    freeze_batch_norm: bool = False
    """Batch norms keep their statistics and weights."""
    lora: LoraConfig | None = None
    augment: AugmentConfig | None = None
    damaged: int = 0
    """So many unreadable media may be left out, each reported, before training stops."""
    ema: float = 0.0
    """Decay of the moving average that is validated and published; 0: none."""
    compile: bool = False
    """Compile the encoders of media, the transformer's layers and the loss; pads texts (docs/training.md)."""
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
    conflict: ConflictConfig | None = None
    """None: the gradients of the tasks are not compared."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}: it must be at least 0 and below 1")
        if self.loss.constrained and self.examples == "pretraining":
            raise ValueError("loss.constrained: the second example of a pretraining row is not an answer")


def described(config: TrainConfig) -> dict[str, Any]:
    """All settings as plain values. Options that are younger than published models are among them where they
    are used, so that those models stay the ones of their settings."""
    values = asdict(config)
    if config.conflict is None:
        del values["conflict"]
    if not config.mixture.block:
        del values["mixture"]["block"]
    return values
