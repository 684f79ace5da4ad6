"""Every size of the model in one configuration, stored as config.json in a model folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from unival.config import convert
from unival.errors import UserError, nearest
from unival.model import portable


class UnivalConfig(PreTrainedConfig):
    """Sizes of the encoder-decoder; the defaults are those of `unival_base` (UnIVAL paper, sec. 3).

    `image_encoder`, `video_encoder` and `audio_encoder` are specifications of the backbones, or None where
    the model lacks the modality. `{"type": "identity", "out_channels": n}` takes ready feature maps.
    The position tables hold two rows more than `max_*_positions`, as those of the original do.
    """

    model_type = "unival"
    attribute_map = {  # noqa: RUF012  (a class attribute of transformers)
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    }
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

    vocab_size: int = 59457
    d_model: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 12
    decoder_attention_heads: int = 12
    encoder_ffn_dim: int = 3072
    decoder_ffn_dim: int = 3072
    dropout: float = 0.1
    """Of embeddings, attention outputs and feed-forward outputs."""
    attention_dropout: float = 0.0
    encoder_drop_path: float = 0.1
    """Of the last layer; it grows linearly from 0 at the first."""
    decoder_drop_path: float = 0.1
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    token_bucket_size: int = 256
    """Buckets of token distance in each direction: the first half exact, then logarithmic up to the next."""
    token_bucket_max_distance: int = 1024
    image_bucket_size: int = 42
    """Width and height of the grid of positions that all feature maps lie on."""
    code_image_size: int = 256
    """Pixels of generated images; a code stands for 8 x 8."""
    attention_scale_factor: float = 2.0
    """Scores are scaled by (this * width of a head) ** -0.5."""
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    image_encoder: dict[str, Any] | None = None
    video_encoder: dict[str, Any] | None = None
    audio_encoder: dict[str, Any] | None = None
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 0
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for heads in (self.encoder_attention_heads, self.decoder_attention_heads):
            if heads < 1 or self.d_model % heads:
                raise ValueError(f"d_model {self.d_model} is not a multiple of the {heads} attention heads")
        for name, hint in UnivalConfig.__annotations__.items():
            value = getattr(self, name)
            least = 0 if hint is float or name.endswith(("_layers", "_id")) else 1
            if hint in (int, float) and not least <= value < math.inf:
                raise ValueError(f"{name} is {value}, less than {least} or not finite")
            if name.endswith("_id") and value >= self.vocab_size:
                raise ValueError(f"{name} is {value}, beyond the vocabulary of {self.vocab_size}")

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **hub: Any) -> None:
        """Write config.json and, for those who have not this package, the code (`unival.model.portable`)."""
        portable.write_code(Path(save_directory))
        self.auto_map = portable.AUTO_MAP
        super().save_pretrained(save_directory, push_to_hub, **hub)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], vocab_size: int, where: Path | str) -> "UnivalConfig":
        """The configuration of `conf/model/<name>.yaml` (`config`), strictly; `where` starts the messages.

        Raises:
            UserError: an unknown field or a value that does not fit.
        """
        fields = {name: hint for name, hint in cls.__annotations__.items() if name != "vocab_size"}
        values = {}
        for name, value in settings.items():
            if name not in fields:
                raise UserError(f"{where}: unknown field '{name}': {nearest(name, fields)}")
            values[name] = convert(fields[name], value, f"{where}: {name}")
        try:
            return cls(vocab_size=convert(int, vocab_size, f"{where}: vocab_size"), **values)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error

    @property
    def media(self) -> dict[str, dict[str, Any]]:
        """The backbones' specifications by modality, in the order of the encoder's sequence."""
        encoders = {"image": self.image_encoder, "video": self.video_encoder, "audio": self.audio_encoder}
        return {name: spec for name, spec in encoders.items() if spec is not None}
