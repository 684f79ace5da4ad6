"""The original's state dict names and ours, both ways.

The original keeps index buffers, which are functions of the configuration, in its checkpoints; ours has none.
"""

import re

BACKBONES = {"images": "image", "videos": "video", "audios": "audio"}
IGNORED = re.compile(  # recomputed from the configuration, or never used
    r"(encoder|decoder)\.(version|token_rp_bucket|image_rp_bucket|image_position_idx)$"
    r"|encoder\.embed_images\.fc\.|encoder\.embed_audios\.(fc1|fc_audioset|spectrogram_extractor|logmel_extractor)\."
)
RULES = [  # (official, ours); the first that matches wins
    (r"encoder.embed_images.(.+)", r"encoder.media.image.backbone.\1"),
    (r"encoder.embed_videos.(.+)", r"encoder.media.video.backbone.\1"),
    (r"encoder.embed_audios.(.+)", r"encoder.media.audio.backbone.\1"),
    (r"encoder.(image|video|audio)_proj.(weight|bias)", r"encoder.media.\1.projection.\2"),
    (r"encoder.embed_(image|video|audio)_positions.weight", r"encoder.media.\1.positions.weight"),
    (r"encoder.embed_tokens.weight", r"shared.weight"),
    (r"encoder.patch_layernorm_embedding.(weight|bias)", r"encoder.media_norm.\1"),
    (r"encoder.image_pos_ln.(weight|bias)", r"encoder.media_position_norm.\1"),
    (r"encoder.pos_q_linear.(weight|bias)", r"encoder.absolute_bias.query.\1"),
    (r"encoder.pos_k_linear.(weight|bias)", r"encoder.absolute_bias.key.\1"),
    (r"encoder.layers.(\d+).attn_ln.(weight|bias)", r"encoder.layers.\1.self_attn_out_norm.\2"),
    (r"decoder.embed_image_positions.weight", r"decoder.code_positions.weight"),
    (r"decoder.code_layernorm_embedding.(weight|bias)", r"decoder.code_embed_norm.\1"),
    (r"decoder.image_pos_ln.(weight|bias)", r"decoder.code_position_norm.\1"),
    (r"decoder.(self|cross)_pos_q_linear.(weight|bias)", r"decoder.\1_bias.query.\2"),
    (r"decoder.(self|cross)_pos_k_linear.(weight|bias)", r"decoder.\1_bias.key.\2"),
    (r"decoder.layers.(\d+).encoder_attn.c_attn", r"decoder.layers.\1.cross_attn.head_gain"),
    (r"decoder.layers.(\d+).encoder_attn.(.+)", r"decoder.layers.\1.cross_attn.\2"),
    (r"decoder.layers.(\d+).encoder_attn_layer_norm.(weight|bias)", r"decoder.layers.\1.cross_attn_norm.\2"),
    (r"decoder.layers.(\d+).cross_attn_ln.(weight|bias)", r"decoder.layers.\1.cross_attn_out_norm.\2"),
    (r"decoder.layers.(\d+).self_attn_ln.(weight|bias)", r"decoder.layers.\1.self_attn_out_norm.\2"),
    (r"(encoder|decoder).layers.(\d+).self_attn.c_attn", r"\1.layers.\2.self_attn.head_gain"),
    (r"(encoder|decoder).layers.(\d+).self_attn.(.+)", r"\1.layers.\2.self_attn.\3"),
    (r"(encoder|decoder).layers.(\d+).self_attn_layer_norm.(weight|bias)", r"\1.layers.\2.self_attn_norm.\3"),
    (r"(encoder|decoder).layers.(\d+).final_layer_norm.(weight|bias)", r"\1.layers.\2.ffn_norm.\3"),
    (r"(encoder|decoder).layers.(\d+).(fc1|fc2).(weight|bias)", r"\1.layers.\2.ffn.\3.\4"),
    (r"(encoder|decoder).layers.(\d+).ffn_layernorm.(weight|bias)", r"\1.layers.\2.ffn.norm.\3"),
    (r"(encoder|decoder).layer_norm.(weight|bias)", r"\1.final_norm.\2"),
    (r"(encoder|decoder).layernorm_embedding.(weight|bias)", r"\1.embed_norm.\2"),
    (r"(encoder|decoder).embed_positions.weight", r"\1.positions.weight"),
    (r"(encoder|decoder).pos_ln.(weight|bias)", r"\1.position_norm.\2"),
    (r"(encoder|decoder).token_rel_pos_table_list.(\d+).weight", r"\1.relative_bias.token.\2.weight"),
    (r"(encoder|decoder).image_rel_pos_table_list.(\d+).weight", r"\1.relative_bias.grid.\2.weight"),
    (r"encoder.type_embedding.weight", r"encoder.type_embedding.weight"),
    (r"decoder.embed_tokens.weight", r"shared.weight"),
    (r"decoder.output_projection.weight", r"shared.weight"),
]
_FROM_OFFICIAL = [
    (re.compile(official.replace(".", r"\.").replace(r"(\.+)", "(.+)")), ours) for official, ours in RULES
]


def ours(official: str) -> str | None:
    """Our name of an official key; None for one that is recomputed or never used.

    Raises:
        KeyError: not a key of the original.
    """
    if IGNORED.match(official):
        return None
    for pattern, name in _FROM_OFFICIAL:
        match = pattern.fullmatch(official)
        if match:
            return match.expand(name)
    raise KeyError(official)


def _reverse(official: str, ours: str) -> tuple[re.Pattern[str], str]:
    """Swap a rule: groups become references and references groups, numbered alike in both."""
    groups = re.findall(r"\([^)]*\)", official)
    template = official
    for number, group in enumerate(groups, 1):
        template = template.replace(group, f"\\{number}", 1)
    pattern = re.escape(ours)
    for number, group in enumerate(groups, 1):
        pattern = pattern.replace(f"\\\\{number}", f"(?P<g{number}>{group[1:-1]})")
        template = template.replace(f"\\{number}", f"\\g<g{number}>")
    return re.compile(pattern), template


_TO_OFFICIAL = [_reverse(*rule) for rule in RULES]
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # the same tensor as the encoder's


def official(ours: str) -> str:
    """The official key of ours (the encoder's name for the tied embedding).

    Raises:
        KeyError: not a key of the model.
    """
    for pattern, name in _TO_OFFICIAL:
        match = pattern.fullmatch(ours)
        if match:
            return match.expand(name)
    raise KeyError(ours)
