"""Images decoded together are those decoded one by one, by Pillow."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ioca_jax.images import decode_images


class Decoder:
    """Decodes as Pillow does, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, encoded: bytes) -> np.ndarray:
        """One image, uint8 [height, width, channels]."""
        self.calls += 1
        with Image.open(io.BytesIO(encoded)) as image:
            array = np.asarray(image)
        return array if array.ndim == 3 else array[..., None]


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def paeth(left: int, up: int, corner: int) -> int:
    """The predictor of PNG's filter 4: the neighbour nearest to their plane."""
    return min((left, up, corner), key=lambda value: abs(left + up - corner - value))


def encode(image: np.ndarray, first_filter: int = 0, *extra: bytes) -> bytes:
    """A PNG of an image [height, width, channels], by the formulas of its format.

    The filters of its rows are ``first_filter`` and those after it, modulo 5.
    """
    height, width, channels = image.shape
    padded = np.pad(image.astype(int), ((1, 0), (1, 0), (0, 0)))
    data = b""
    for row in range(height):
        kind = (first_filter + row) % 5
        corners, ups = padded[row, :-1], padded[row, 1:]
        lefts, values = padded[row + 1, :-1], padded[row + 1, 1:]
        nearest = np.vectorize(paeth)(lefts, ups, corners)
        predicted = (0 * values, lefts, ups, (lefts + ups) // 2, nearest)[kind]
        data += bytes([kind]) + (values - predicted).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, channels - 1, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(data))]
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IEND", b"")))


def images(number: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, *shape), np.uint8)


@pytest.mark.parametrize("shape", [(6, 7, 1), (7, 4, 3), (1, 1, 1)])
def test_images_of_one_kind_are_decoded_together(shape):
    """The first row of an image has every filter, after every last row."""
    given = images(30, *shape)
    encoded = [encode(image, i % 7) for i, image in enumerate(given)]
    decode = Decoder()
    np.testing.assert_array_equal(decode_images(encoded, decode), given)
    assert decode.calls == 1
    np.testing.assert_array_equal([decode(image) for image in encoded], given)


def jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg")
    return stream.getvalue()


@pytest.mark.parametrize(
    "other",
    {
        "size": lambda image: encode(image[:, :3]),
        "colours": lambda image: encode(image[..., :1]),
        "format": jpeg,
        "chunks": lambda image: encode(image, 2, chunk(b"gAMA", bytes(4))),
    }.items(),
    ids=lambda item: item[0],
)
def test_images_of_several_kinds_are_decoded_one_by_one(other):
    first, second = images(2, 5, 4, 3)
    for encoded in (
        [encode(first), other[1](second)],
        [other[1](second), encode(first)],
    ):
        decode = Decoder()
        found = decode_images(encoded, decode)
        for array, image in zip(found, encoded, strict=True):
            np.testing.assert_array_equal(array, Decoder()(image))
        assert decode.calls == 2


def outcome(decode: Callable[[], Any]) -> Any:
    """Pixels, or the error without addresses of memory."""
    try:
        return np.asarray(decode()).tolist()
    except (OSError, SyntaxError) as error:
        return type(error), str(error).partition(" at 0x")[0]


def test_a_damaged_image_is_what_the_decoder_makes_of_it():
    """Pillow ignores a wrong checksum, and refuses the others."""
    first, second = (encode(image) for image in images(2, 5, 4, 1))
    wrong_filter = chunk(b"IDAT", zlib.compress(bytes([9] * 25)))
    refused = 0
    for damaged in (
        second[:-22] + bytes(6) + second[-16:],  # the checksum of the pixels
        second[:-20],
        second[:29] + bytes(4) + second[33:],  # that of the header
        second[:33] + wrong_filter + second[-12:],
    ):
        alone = outcome(lambda image=damaged: Decoder()(image))
        for place in (0, 1):
            both = [first, damaged] if place else [damaged, first]
            among = outcome(
                lambda both=both, i=place: decode_images(both, Decoder())[i]
            )
            assert among == alone
        refused += isinstance(alone, tuple)
    assert refused == 3
