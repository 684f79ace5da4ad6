"""The model: media or text in, text out.

An encoder-decoder as in the textbook (Vaswani et al. 2017), but for these departures; all of them are
UnIVAL's, most of them OFA's before it (docs/reference.md 1.5, 1.6):

- Media: a CNN of each kind and one linear map each give tokens that stand before the text (`encoder`,
  `backbone`). Image, video and sound share one type vector and one norm. What is ours: a medium is encoded
  once, however many examples show it, and rows of all media may stand in one batch.
- Norms: before each part of a layer and after the last layer, and NormFormer's: after each attention, inside
  the feed-forward, a gain per head (`attention`).
- Positions are added to no input; they are a bias of the attention (`positions`). The absolute part is
  computed once for a whole stack out of position embeddings (TUPE), between text and media too, and in
  cross-attention. The relative part has tables of each layer and head: distances of text in buckets,
  offsets of media on a grid of `image_bucket_size` columns, whatever their size; none between text and media.
- The frames that are left of a video share one grid; the tokens of a sound are laid on a square grid.
- Attention is scaled by 1 / sqrt(2 D / H), for contents and positions together.
- One matrix embeds the text of both stacks and writes the output, without bias and the factor sqrt(D).
- Whole residual branches are dropped in training, more of them in later layers (drop path).
- The decoder starts from `<s>`, not from `</s>`. It writes boxes as four location tokens and, with positions
  on a grid, images as codes (`decoder`).
- Initialisation is BERT's, of the bias tables too (`modeling`).

Read `configuration`, `encoder`, `decoder`, `modeling`, `processing`, and `positions` for the biases.
"""

from unival.model.configuration import UnivalConfig
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor

__all__ = ["UnivalConfig", "UnivalForConditionalGeneration", "UnivalProcessor"]
