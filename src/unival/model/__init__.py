"""The model: media or text in, text out."""

from unival.model.configuration import UnivalConfig
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor

__all__ = ["UnivalConfig", "UnivalForConditionalGeneration", "UnivalProcessor"]
