"""Bytes of picture files decoded to arrays: JPEG by simplejpeg if it is installed, else by Pillow.

Both decode JPEGs to the same bits. Pillow decodes all other formats, what has to be turned or
converted, and what simplejpeg refuses, so that the same files are damaged with and without it.
"""

import functools
import importlib
import io
from typing import Any

import numpy as np

from cnn_jax.data import pictures

# A picture may say that it has to be turned, in EXIF or in XMP.
_TURNING = (b"Exif\0\0", b"tiff:Orientation")


class NamedBytes(io.BytesIO):
    """The bytes of a file, with the name that errors call it by."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


@functools.cache
def find_simplejpeg() -> Any | None:
    """Returns the module simplejpeg, None if it isn't installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def decode(content: bytes, name: str, channels: int = 3) -> np.ndarray:
    """Decodes a picture to uint8 `[height, width, channels]`, upright, on white where transparent.

    Raises:
      PictureError: it is no picture, damaged or unreasonably large; `name` says which.
    """
    module = find_simplejpeg()
    if module and content.startswith(b"\xff\xd8") and not any(t in content for t in _TURNING):
        image = _decode_jpeg(module, content, channels)
        if image is not None:
            return image
    return pictures.decode_picture(NamedBytes(content, name), channels)


def _decode_jpeg(module: Any, content: bytes, channels: int) -> np.ndarray | None:
    """The array, or None if it is better left to Pillow."""
    try:
        height, width, colors, _ = module.decode_jpeg_header(content)
        # CMYK is converted in other ways by each, and gray is made of colors in other ways.
        wanted = ("Gray",) if channels == 1 else ("Gray", "YCbCr", "RGB")
        if colors not in wanted or height * width > pictures.MAX_PIXELS:
            return None
        image: np.ndarray = module.decode_jpeg(content, "GRAY" if channels == 1 else "RGB")
    except ValueError:
        return None
    return image.reshape(height, width, channels)
