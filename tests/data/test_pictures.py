"""Images in odd forms: each is shown as a viewer shows it, or refused."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from unival import media_format
from unival.data import media
from unival.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
EXIF = range(1, 9)


def encoded(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def lying(orientation: int, form: str = "PNG") -> bytes:
    """PIXELS as a picture that its EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(PIXELS), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [*EXIF, 0, 9])
def test_exif_orientation_turns_pixels_and_size(orientation: int, form: str) -> None:
    data = lying(orientation, form)
    shown = media.decode_image(data, "x")
    assert np.array_equal(shown, media_format.TURNS.get(orientation, media_format.UPRIGHT).pixels(PIXELS))
    assert np.array_equal(shown, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert media.image_size(data, "x") == media.describe("image", data, "x") == shown.shape[1::-1]


@pytest.mark.parametrize("orientation", EXIF)
def test_a_turn_takes_pixels_sizes_and_boxes_the_same_way(orientation: int) -> None:
    data = lying(orientation)
    turn = media_format.TURNS[media.image_orientation(data, "x")]
    shown_HWC = media.decode_image(data, "x")
    assert np.array_equal(turn.pixels(PIXELS), shown_HWC)
    shown = shown_HWC.shape[1], shown_HWC.shape[0]
    assert turn.size((30, 20)) == shown and turn.size(shown) == (30, 20)
    x0, y0, x1, y1 = (int(corner) for corner in turn.box((3.0, 5.0, 10.0, 7.0), shown))
    inside = turn.pixels(PIXELS[5:7, 3:10])
    assert np.array_equal(shown_HWC[y0:y1, x0:x1], inside)


def test_a_picture_that_was_turned_is_not_turned_again() -> None:
    image = media.open_image(lying(6), "x")
    assert np.array_equal(np.asarray(media_format.rgb(image, "x")), np.asarray(image))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled(form: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    shown = media.decode_image(encoded(Image.fromarray(deep), form), "x")
    assert np.array_equal(shown, np.repeat(GREY[..., None], 3, 2))


def test_grey_of_16_bits_whose_zero_is_white_is_inverted() -> None:
    """A scanner's TIFF: Pillow heeds PhotometricInterpretation 0 in 8 bits alone."""
    data = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF")
    entry = struct.pack("<HHI", media_format.TIFF_PHOTOMETRIC, 3, 1)
    assert data.count(entry + b"\1") == 1
    shown = media.decode_image(data.replace(entry + b"\1", entry + b"\0"), "x")
    assert np.array_equal(shown[..., 0], 255 - GREY)


def test_grey_of_16_bits_is_rounded_and_any_byte_order_read() -> None:
    deep = np.array([[0, 128, 129, 32767, 65406, 65407, 65535]], np.uint16)
    wanted = [0, 0, 1, 127, 254, 255, 255]
    for image in (
        Image.fromarray(deep),
        Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes()),
    ):
        assert np.asarray(media_format.rgb(image, "x"))[0, :, 0].tolist() == wanted


def test_a_dark_pgm_of_16_bits_stays_dark() -> None:
    dark = np.full((4, 4), 200, np.uint16)
    assert media.decode_image(encoded(Image.fromarray(dark), "PPM"), "x").max() == 1


@pytest.mark.fault
@pytest.mark.parametrize(
    "levels",
    [GREY.astype(np.float32), GREY.astype(np.int32), GREY.astype(np.int32) * -257, GREY * np.int32(70_000)],
)
def test_levels_that_do_not_tell_white_are_refused(levels: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"^x: grey levels "):
        media.decode_image(encoded(Image.fromarray(levels), "TIFF"), "x")


def test_floats_from_0_to_1_are_scaled() -> None:
    data = encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF")
    assert np.array_equal(media.decode_image(data, "x")[..., 0], GREY)


@pytest.mark.parametrize("mode", ["L", "LA", "PA", "RGBA", "1"])
def test_other_modes_show_their_colours_without_transparency(mode: str) -> None:
    levels = np.where(GREY > 127, 255, 0).astype(np.uint8) if mode == "1" else GREY
    image = Image.fromarray(levels).convert({"1": "1", "PA": "P"}.get(mode, mode))
    if "A" in mode:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(GREY[::-1]))
    shown = media_format.rgb(image, "x")
    assert np.array_equal(np.asarray(shown), np.repeat(levels[..., None], 3, 2))


def test_a_palette_with_a_transparent_colour_shows_its_colours() -> None:
    image = Image.fromarray(GREY).convert("P")
    data = encoded(image, transparency=7)
    assert np.array_equal(media.decode_image(data, "x")[..., 0], GREY)


def test_colour_of_16_bits_keeps_its_upper_eight(tmp_path: Any) -> None:
    """Written by hand: Pillow reads PNG of 16 bits a colour, but does not write it."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for colour, channels in ((2, 3), (6, 4), (4, 2)):
        deep = np.repeat(GREY[..., None].astype(">u2") * 257, channels, 2)
        rows = b"".join(b"\0" + row.tobytes() for row in deep)
        header = struct.pack(">IIBBBBB", GREY.shape[1], GREY.shape[0], 16, colour, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        shown = media.decode_image(b"\x89PNG\r\n\x1a\n" + parts, "x")
        assert np.abs(shown[..., 0].astype(int) - GREY).max() <= 1
