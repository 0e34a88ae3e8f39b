"""Many small images decoded at once.

A decoder takes longer to open a small image than to decode it. ``decode_images``
therefore joins small PNG images of one kind into a single tall one, which any decoder
reads with the same result. PNG's filters refer to the row above, and count the row
above an image as zeros; so a row of zeros separates the images.
Source: W3C, "Portable Network Graphics (PNG) Specification", sections 9 and 11.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # by colour type: grey and RGB
_MOST_PIXELS = 2**24  # of a joined image; decoders refuse very large ones


def decode_images(
    encoded: Sequence[bytes], decode: Callable[[bytes], np.ndarray]
) -> np.ndarray | list[np.ndarray]:
    """Decodes images as ``decode`` does one of them, uint8 [height, width, channels].

    Args:
        encoded: images, each in a format that ``decode`` reads.
        decode: decodes one image.

    Returns:
        The decoded images, an array [N, height, width, channels] where they have been
        joined.

    Raises:
        Exception: whatever ``decode`` raises for an image that it cannot decode.
    """
    try:
        kind = _Kind.of(encoded[0])
        if kind.width * (kind.height + 1) * len(encoded) > _MOST_PIXELS:
            raise ValueError("too many pixels to be joined")
        tall = decode(kind.join(encoded))
        stacked = tall.reshape(len(encoded), kind.height + 1, *tall.shape[1:])
        return stacked[:, :-1]
    except Exception:  # other images, or damaged ones: decode says which and why
        return [decode(image) for image in encoded]


class _Kind(NamedTuple):
    """The first 33 bytes of a PNG image, and what they say."""

    header: bytes
    width: int
    height: int
    row_bytes: int

    @classmethod
    def of(cls, image: bytes) -> "_Kind":
        """The kind of an image of 8 bits a channel, without a palette or interlace."""
        header = image[:33]
        width, height, depth, colour, *others = struct.unpack(">IIBBBBB", header[16:29])
        if header != _SIGNATURE + _chunk(b"IHDR", header[16:29]):
            raise ValueError("not a PNG image")
        if depth != 8 or any(others):
            raise ValueError("not of 8 bits a channel, or interlaced")
        return cls(header, width, height, 1 + width * _CHANNELS[colour])

    def join(self, encoded: Sequence[bytes]) -> bytes:
        """One image of images of this kind, each followed by a row of zeros."""
        black = bytes(self.row_bytes)
        rows = b"".join(self._filtered_rows(image) + black for image in encoded)
        size = struct.pack(">II", self.width, len(rows) // self.row_bytes)
        return (
            _SIGNATURE
            + _chunk(b"IHDR", size + self.header[24:29])
            + _chunk(b"IDAT", zlib.compress(rows, 0))
            + _chunk(b"IEND", b"")
        )

    def _filtered_rows(self, image: bytes) -> bytes:
        """The rows of an image whose only chunks are a header, pixels and an end."""
        length = int.from_bytes(image[33:37], "big")
        rows = zlib.decompress(image[41:-16])
        if (
            image[:33] != self.header
            or image[37:41] != b"IDAT"
            or len(image) != 33 + 12 + length + 12
            or len(rows) != self.height * self.row_bytes
        ):
            raise ValueError("an image of another kind")
        return rows


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
