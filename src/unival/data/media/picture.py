"""Images, by Pillow. H height, W width, C = 3 colours; pixels are uint8."""

import io

import numpy as np
from PIL import Image

from unival import limits, media_format
from unival.data.media.reading import check_size, reading
from unival.errors import UserError


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode one image to RGB, turned and scaled as `media_format.rgb` says.

    Raises:
        UserError: not an image, or too large a one.
    """
    with reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > limits.PICTURE_PIXELS:
            size = f"{image.width}x{image.height}"
            raise UserError(f"{name}: {size}: more than {limits.PICTURE_PIXELS} pixels")
        check_size(image.width * image.height, "pixels", name)
        image.load()
        return media_format.rgb(image, name)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The pixels of `open_image`, uint8 HWC."""
    return np.asarray(open_image(data, name))


def image_orientation(data: bytes, name: str) -> int:
    """By which of `media_format.TURNS` `decode_image` turns the stored pixels, from the header alone."""
    with reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        return media_format.orientation_of(image)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) that `decode_image` will give, from the header alone."""
    with reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        if image.format == "TIFF":  # its size is turned when it is opened, its EXIF when it is decoded
            image.load()
        return media_format.TURNS[media_format.orientation_of(image)].size(image.size)


def plain_image(data: bytes, name: str) -> bytes:
    """The image for readers that heed no EXIF and clip deep grey, as the original's.

    A PNG where they would see other pixels than `decode_image` gives, else the bytes as they are.
    """
    with reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        plain = media_format.orientation_of(image) == 1 and not media_format.is_deep(image)
    return data if plain else encode_image(decode_image(data, name))


def encode_image(image_HWC: np.ndarray, suffix: str = ".png", quality: int = 95) -> bytes:
    """Encode uint8 HWC RGB as PNG (lossless) or JPEG. Equal pixels give equal bytes."""
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(image_HWC).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(image_HWC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
