"""The model as a citizen of transformers: forward, generation, saving and loading, Auto classes.

B rows, K media per row, M media of one modality, S text tokens, T target tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import Seq2SeqLMOutput

from unival.model.attention import Attention
from unival.model.backbone import init_layer
from unival.model.configuration import UnivalConfig
from unival.model.decoder import UnivalDecoder
from unival.model.encoder import MediaTokens, UnivalEncoder, UnivalEncoderOutput
from unival.model.linear import Linear, linear
from unival.model.loss import IGNORED, sequence_loss
from unival.model.tied import lookup

# transformers 5.24 renamed `past_key_values`
CACHE = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"


class UnivalForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """UnIVAL: any mix of text, images, videos and audio in, text (or image codes) out."""

    config_class = UnivalConfig
    config: UnivalConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # of transformers' Trainer: `num_items_in_batch`
    _supports_sdpa = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer", "MediaEmbedding"]  # noqa: RUF012
    _tied_weights_keys = {  # noqa: RUF012
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }

    learned: frozenset[str] | None = frozenset()
    """Media that it was trained on; None: not known."""

    def __init__(self, config: UnivalConfig) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = UnivalEncoder(config, self.shared)
        self.decoder = UnivalDecoder(config, self.shared)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The one place of initialisation: BERT's, bias tables too; convolutions as in backbone.py."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
            if not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Attention):
            init.ones_(module.head_gain)
        else:
            init_layer(module)

    def get_encoder(self, modality: str | None = None) -> UnivalEncoder:
        """The encoder of text and all media."""
        return self.encoder

    def get_decoder(self) -> UnivalDecoder:
        """The decoder stack."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, shared by encoder, decoder and output."""
        return self.shared

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the shared token embedding."""
        assert isinstance(value, nn.Embedding)
        self.shared = self.encoder.embed_tokens = self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """The output projection."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the output projection."""
        assert isinstance(value, nn.Linear)
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_index: Tensor | None = None,
        video_values: Tensor | None = None,
        video_index: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_index: Tensor | None = None,
        media_tokens: MediaTokens | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        code_mask: Tensor | None = None,
        encoder_outputs: UnivalEncoderOutput | None = None,
        cache: EncoderDecoderCache | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unknown: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Logits, and the mean token loss where there are labels.

        Args:
            input_ids: (B, S) source tokens, padding on the right.
            attention_mask: (B, S), 0 at padding; None where nothing is padded.
            pixel_values: (M, 3, height, width) images.
            pixel_index: (B, K) the images each row shows, -1 for none; None: row i shows image i. On the CPU.
            video_values: (M, 3, frames, height, width).
            video_index: as `pixel_index`.
            audio_values: (M, samples) waveforms.
            audio_index: as `pixel_index`.
            media_tokens: of `encoder.embed_media`, in place of the values; several calls can share it.
            decoder_input_ids: (B, T), starting with BOS; by default the labels shifted by one.
            decoder_attention_mask: (B, T), 0 at padding; padding at the end needs none.
            labels: (B, T) targets, -100 where there is no loss.
            code_mask: (B,) True for rows whose target is an image's codes.
            encoder_outputs: of the encoder, in place of all inputs above it.
            cache: the decoder's; `decoder_input_ids` then holds only new tokens.
            past_key_values: the same under its name before transformers 5.24.
            use_cache: start a cache where none is given.
            return_dict: False for a tuple.
            num_items_in_batch: labels of all the calls whose gradients are summed up: divides the loss in
                place of the number of this call's.
            unknown: taken where None or False, as callers of transformers' models pass what they do not use.

        Raises:
            TypeError: an argument that the model does not have.
        """
        if given := [name for name, value in unknown.items() if value is not None and value is not False]:
            raise TypeError(f"UnivalForConditionalGeneration has no argument {', '.join(given)}")
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids or labels")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        source_BSD, target_BTD, head_VD = self._embed(
            input_ids if encoder_outputs is None else None, decoder_input_ids
        )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                media_tokens=media_tokens,
                inputs_embeds=source_BSD,
                pixel_values=pixel_values,
                pixel_index=pixel_index,
                video_values=video_values,
                video_index=video_index,
                audio_values=audio_values,
                audio_index=audio_index,
            )
        cache = past_key_values if cache is None else cache
        if cache is not None and cache.is_compileable:
            raise ValueError("a static cache does not fit: leave `cache_implementation` at 'dynamic'")
        if use_cache and cache is None and not self.training:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        states_BTD = self.decoder(
            decoder_input_ids,
            encoder_outputs,
            decoder_attention_mask,
            code_mask,
            cache,
            inputs_embeds=target_BTD,
        )
        logits_BTV = self.lm_head(states_BTD) if head_VD is None else linear(states_BTD, head_VD)
        loss = None
        if labels is not None:
            total, count = sequence_loss(logits_BTV, labels)
            loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        kept: dict[str, Any] = {CACHE: cache}
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits_BTV,
            **kept,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )
        return output.to_tuple() if return_dict is False else output

    def _embed(
        self, source_BS: Tensor | None, target_BT: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Both embedded texts and the head's weight, with one gradient; all None where none is recorded."""
        table_VD = self.lm_head.weight
        tied = table_VD is self.encoder.embed_tokens.weight is self.decoder.embed_tokens.weight
        if not (tied and torch.is_grad_enabled() and table_VD.requires_grad) or torch.compiler.is_compiling():
            return None, None, None
        source_BSD = None
        if source_BS is not None:
            source_BSD, table_VD = lookup(table_VD, source_BS, self.config.pad_token_id)
        return source_BSD, *lookup(table_VD, target_BT, self.config.pad_token_id)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """BOS, then the labels without their last token; IGNORED becomes padding."""
        shifted = labels.new_full(labels.shape, self.config.decoder_start_token_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, self.config.pad_token_id)


AutoConfig.register(UnivalConfig.model_type, UnivalConfig)
for _auto in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(UnivalConfig, UnivalForConditionalGeneration)
