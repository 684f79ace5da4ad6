"""A model folder as graphs that run without our code: encoder and decoder step, for torch.export and ONNX.

Shapes are fixed: texts are padded and masked, so that the position biases, which hang on lengths alone,
become constants. A step of the decoder reads the whole prefix; no keys and values are kept between steps.

B rows, S source tokens, L encoder positions, T target tokens, V vocabulary, D width.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unival import files
from unival.errors import UserError
from unival.folders import check_output, contents, publish
from unival.model.encoder import EncoderPositions, UnivalEncoderOutput
from unival.model.folder import read
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.positions import BiasCache
from unival.model.processing import UnivalProcessor
from unival.record import Modality

RECORD = "graphs.json"
VALUES: dict[Modality, str] = {"image": "pixel_values", "video": "video_values", "audio": "audio_values"}


@dataclass(frozen=True)
class Shapes:
    """What the graphs are made for; their record has it."""

    modality: Modality
    rows: int = 1
    """B: each shows one medium and has one prompt."""
    source: int = 32
    """S, with begin and end; shorter prompts are padded."""
    target: int = 24
    """T, with BOS: a longer answer does not fit."""


class Encoder(nn.Module):
    """(ids (B, S), mask (B, S), media (B, ...)) -> states (B, L, D), mask (B, L), positions (1, L, D)."""

    def __init__(self, model: UnivalForConditionalGeneration, modality: Modality) -> None:
        super().__init__()
        self.encoder, self.values = model.encoder, VALUES[modality]

    def forward(self, ids_BS: Tensor, mask_BS: Tensor, media: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions are for the decoder alone."""
        encoded = self.encoder(input_ids=ids_BS, attention_mask=mask_BS, **{self.values: media})
        assert encoded.last_hidden_state is not None and encoded.attention_mask is not None
        assert encoded.positions is not None
        return encoded.last_hidden_state, encoded.attention_mask, encoded.positions.states


class Step(nn.Module):
    """(prefix (B, T), place (1,), states, mask, positions) -> logits (B, V) of the token after that place."""

    def __init__(self, model: UnivalForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.lm_head = model.decoder, model.lm_head

    def forward(
        self, prefix_BT: Tensor, place_1: Tensor, states_BLD: Tensor, mask_BL: Tensor, positions_1LD: Tensor
    ) -> Tensor:
        """What stands in the prefix behind the place does not count."""
        encoded = UnivalEncoderOutput(states_BLD, mask_BL, EncoderPositions(positions_1LD, None, BiasCache()))
        hidden_B1D = self.decoder(prefix_BT, encoded).index_select(1, place_1)
        return self.lm_head(hidden_B1D[:, 0])  # type: ignore[no-any-return]


def example(processor: UnivalProcessor, shapes: Shapes) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `Encoder` of these shapes: empty prompts, blank media."""
    ids_BS = torch.full((shapes.rows, shapes.source), processor.tokenizer.pad_token_id)
    ids_BS[:, 0], ids_BS[:, 1] = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    mask_BS = (ids_BS != processor.tokenizer.pad_token_id).long()
    return ids_BS, mask_BS, torch.zeros(shapes.rows, *processor.settings.shape(shapes.modality))


@torch.no_grad()
def export_graphs(folder: Path | str, out: Path | str, shapes: Shapes) -> dict[str, Any]:
    """Write encoder.pt2, step.pt2, encoder.onnx, step.onnx and their record `graphs.json`, which is returned.

    Raises:
        UserError: no model there, one without this encoder or with shorter positions, or no onnxscript.
    """
    out = Path(out)
    check_output(out, RECORD, [folder])
    model, processor = read(folder)
    sizes = model.config
    if shapes.modality not in sizes.media:
        raise UserError(f"{folder}: has no {shapes.modality} encoder: encoders: {', '.join(sizes.media)}")
    if shapes.source > sizes.max_source_positions or shapes.target > sizes.max_target_positions:
        raise UserError(
            f"{folder}: reads {sizes.max_source_positions} and writes {sizes.max_target_positions} tokens "
            "at most: give a smaller --source or --target"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX: onnxscript is not installed: pip install 'unival[onnx]'") from error
    first = example(processor, shapes)
    prefix_BT = torch.full((shapes.rows, shapes.target), processor.tokenizer.pad_token_id)
    encoder, step = Encoder(model.eval(), shapes.modality), Step(model)
    second = (prefix_BT, torch.zeros(1, dtype=torch.long), *encoder(*first))
    with torch.enable_grad():  # as in a trace, no chunks of positions: what is remembered then are tensors
        step(*second)
    record = {"shapes": asdict(shapes), "start": sizes.decoder_start_token_id, "end": sizes.eos_token_id}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        part = Path(scratch) / out.name
        part.mkdir()
        for name, graph, inputs, outputs in (
            (
                "encoder",
                torch.export.export(encoder, first),
                ["ids", "mask", "media"],
                ["states", "encoder_mask", "positions"],
            ),
            (
                "step",
                torch.export.export(step, second),
                ["prefix", "place", "states", "encoder_mask", "positions"],
                ["logits"],
            ),
        ):
            torch.export.save(graph, part / f"{name}.pt2")
            made = torch.onnx.export(
                graph, dynamo=True, verbose=False, input_names=inputs, output_names=outputs, optimize=True
            )
            assert made is not None
            made.save(part / f"{name}.onnx")
        record |= contents(part, RECORD)
        files.write_json(part / RECORD, record)
        publish(part, out)
    return record
