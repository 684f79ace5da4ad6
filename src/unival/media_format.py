"""Pictures and sounds in the one form that all code works with, whatever form they come in.

Pictures are upright, 8 bits, RGB; sounds have one channel. Files (`data.media`) and what a caller holds in
hands (`model.processing`) go through the same functions, so that both give the model the same values.

H, W pixels; C colours or channels, S samples.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from unival import limits
from unival.errors import UserError

EXIF_ORIENTATION = 0x0112
TIFF_PHOTOMETRIC = 262
Box = tuple[float, float, float, float]
Size = tuple[int, int]
"""Width and height in pixels."""


class Turn(NamedTuple):
    """How stored pixels are shown: x and y change places first, then either may be mirrored."""

    transposed: bool
    mirror_x: bool
    mirror_y: bool

    def size(self, size: Size) -> Size:
        """(width, height) as shown of the stored one, and the other way round."""
        return (size[1], size[0]) if self.transposed else size

    def pixels(self, stored_HWC: np.ndarray) -> np.ndarray:
        """The picture as shown; a view."""
        shown = stored_HWC.swapaxes(0, 1) if self.transposed else stored_HWC
        return shown[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def box(self, box: Box, shown: Size) -> Box:
        """x0, y0, x1, y1 in the picture as shown, whose size is `shown`, from those in the stored one."""
        x0, y0, x1, y1 = (box[1], box[0], box[3], box[2]) if self.transposed else box
        if self.mirror_x:
            x0, x1 = shown[0] - x1, shown[0] - x0
        if self.mirror_y:
            y0, y1 = shown[1] - y1, shown[1] - y0
        return x0, y0, x1, y1


UPRIGHT = Turn(False, False, False)
TURNS: Mapping[int, Turn] = {
    1: UPRIGHT,
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
"""By EXIF orientation (EXIF 2.32, tag 0x0112); readers take any other number for 1."""


def orientation_of(image: Image.Image) -> int:
    """A key of TURNS: how the pixels of an image are to be turned."""
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in TURNS else 1


def box_as_shown(box: Box, orientation: int, shown: Size, declared: Size | None) -> Box:
    """The box in a picture as shown, of `shown` size, whose annotation may speak of its stored pixels.

    Tools that heed EXIF annotate the picture as shown, others the stored pixels: the size that the annotation
    declares is one or the other.

    Raises:
        UserError: it declares none, or both are equal.
    """
    turn = TURNS[orientation]
    stored = turn.size(shown)
    if turn == UPRIGHT or declared == shown != stored:
        return box
    if declared == stored != shown:
        return turn.box(box, shown)
    raise UserError(
        f"the picture is turned (EXIF orientation {orientation}), but its annotation's size does not tell "
        "whether the box is: store the picture upright"
    )


def is_deep(image: Image.Image) -> bool:
    """Whether its grey levels have more than 8 bits: Pillow's own conversion clips them."""
    return image.mode[0] in "IF"


def rgb(image: Image.Image, name: str) -> Image.Image:
    """An image as a person sees it: turned as its EXIF says, scaled to 8 bits, RGB.

    Transparency is dropped, the colour below it stays (as `convert` does, and the original with it).

    Raises:
        UserError: it cannot be told which value is white.
    """
    zero_is_white = is_deep(image) and getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0
    if orientation_of(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if is_deep(image):
        levels_HW = _eight_bits(np.asarray(image), image, name)
        image = Image.fromarray(255 - levels_HW if zero_is_white else levels_HW)  # Pillow heeds it in 8 bits
    return image.convert("RGB")


def _eight_bits(levels_HW: np.ndarray, image: Image.Image, name: str) -> np.ndarray:
    """Grey levels of more than 8 bits, scaled so that white is 255.

    16 bits: round(value * 255 / 65535), the rule of the PNG specification (section 13.12). Pillow holds PGM
    of 16 bits in its mode `I`, and writes that mode as 16 bits; floats are 0 to 1, as in scikit-image.
    """
    low, high = (float(bound()) for bound in (levels_HW.min, levels_HW.max))
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # nor NaN
            levels = f"grey levels {low:g} to {high:g} as floats"
            raise UserError(f"{name}: {levels}: scale them to 0..1 or to 8 bits")
        return _scaled(levels_HW, lambda levels: levels * 255)
    sixteen = image.mode.startswith("I;16") or image.format == "PPM" or 255 < high <= 65535
    if low < 0 or not (sixteen or high == 0):
        levels = f"grey levels {low:.0f} to {high:.0f} in 32 bits"
        raise UserError(f"{name}: {levels} do not tell which is white: save it with 8 or 16 bits")
    return _scaled(levels_HW, lambda levels: levels / 257)


def _scaled(levels_HW: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Scaled and rounded to 8 bits, a part at a time: floats of a whole picture need eight times its room."""
    levels, part = levels_HW.reshape(-1), 2**18
    found = np.empty(levels.shape, np.uint8)
    for start in range(0, levels.size, part):
        found[start : start + part] = np.rint(scale(levels[start : start + part])).astype(np.uint8)
    return found.reshape(levels_HW.shape)


def mono(channels: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of equally long channels, floats (S,): no louder than the loudest, however many there are."""
    first, *others = channels
    if not others:
        return first.astype(np.float32)
    total = np.add(first, others[0], dtype=np.float32)
    for channel in others[1:]:
        total += channel
    return total / np.float32(1 + len(others))


def check_level(samples_S: np.ndarray, name: str) -> None:
    """Refuse what no sound holds.

    Raises:
        UserError: a sample is not finite or far beyond full scale.
    """
    peak = max(-float(samples_S.min()), float(samples_S.max()))
    if not np.isfinite(peak):
        raise UserError(f"{name}: sound with NaN or infinite samples")
    if peak > limits.SOUND_LEVEL:
        raise UserError(
            f"{name}: samples of up to {peak:g}, where full scale is 1: divide integers by theirs"
        )
