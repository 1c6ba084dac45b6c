"""Picture files, decoded to arrays."""

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from cnn_jax import files, text
from cnn_jax.data.notes import DataWarning
from cnn_jax.errors import DataError, DataNotFoundError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # none of them interpreted
MAX_PIXELS = 64_000_000  # of one picture; a small file that announces more is a bomb or a mistake
MAX_FILE = 1 << 30  # bytes; some formats are read whole

# Pillow decodes a picture or raises; sizes are checked here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


def cannot_read(path: object, error: OSError) -> DataError:
    """Returns the error for a file or folder that the system refuses to read."""
    kind = DataNotFoundError if isinstance(error, FileNotFoundError) else DataError
    return kind(
        f"{text.one_line(str(path))} can't be read: {files.say_reason(error)}; mend that and run "
        "the command again."
    )


@contextlib.contextmanager
def opening(path: Path | BinaryIO) -> Iterator[Image.Image]:
    """Opens a picture, reading its header only.

    Raises:
      DataError: it is no picture, or unreasonably large.
    """
    shown = text.one_line(str(path))
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open_file(path)) if isinstance(path, Path) else path
        with _raising_data_errors(
            shown, f"is not a picture ({', '.join(FORMATS)}); move it away or save it as PNG."
        ):
            picture = stack.enter_context(Image.open(stream, formats=FORMATS))
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(
                f"{shown} announces {picture.width}x{picture.height} pixels, more than "
                f"{MAX_PIXELS}; scale it down or leave it out."
            )
        # 32 bits, of unknown range; mode I of a PGM has 16.
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
            raise DataError(f"{shown} has pixels of 32 bits, not 8 or 16; save it as 8-bit PNG.")
        with _raising_data_errors(shown, "is truncated or damaged ({}); replace it."):
            yield picture


def _open_file(path: Path) -> BinaryIO:
    try:
        file = files.open_regular(path)
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{text.one_line(str(path))} does not exist; check the path."
        ) from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:  # a zero character
        raise DataError(f"{text.one_line(str(path))} is no path: {error}.") from error
    if os.fstat(file.fileno()).st_size > MAX_FILE:
        file.close()
        raise DataError(
            f"{text.one_line(str(path))} has more than {MAX_FILE:,} bytes; scale the picture down "
            "or leave it out."
        )
    return file


@contextlib.contextmanager
def _raising_data_errors(shown: str, sentence: str) -> Iterator[None]:
    """Makes a DataError of whatever Pillow raises."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{shown} takes more memory than there is; scale it down.") from error
    except Image.DecompressionBombError:
        raise DataError(
            f"{shown} announces more than {MAX_PIXELS} pixels; scale it down or leave it out."
        ) from None
    except Exception as error:
        # Damage can lead Pillow outside the file, which the system refuses with EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise cannot_read(shown, error) from error
        reason = sentence.replace("{}", text.one_line(str(error)))
        raise DataError(f"{shown} {reason}") from error


def decode(
    path: Path | BinaryIO, channels: int, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, bool]:
    """As `decode_picture`, and whether only the lower 8 of a picture's 16 bits are used."""
    if channels not in (1, 3):
        raise DataError(
            f"a picture has 1 channel (gray) or 3 (color), and {channels} are wanted; give such "
            "images as an .npz."
        )
    faint = False
    with opening(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # 16 bits
            values = np.asarray(upright)
            faint = 0 < int(values.max()) < 256
            upright = Image.fromarray((values >> 8).astype(np.uint8))
        if upright.has_transparency_data:
            paper = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(paper, upright.convert("RGBA"))
        upright = upright.convert("L" if channels == 1 else "RGB")
        if size is not None:
            upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(upright, np.uint8)
        return pixels.reshape(upright.height, upright.width, channels), faint


def decode_picture(
    path: Path | BinaryIO, channels: int, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes a picture to uint8 `[height, width, channels]`, on white where it is transparent.

    `size` is the (height, width) to scale it to, None its own.

    Raises:
      DataError: it is no picture, damaged, or unreasonably large; or `channels` isn't 1 or 3.
    """
    image, faint = decode(path, channels, size)
    if faint:
        warnings.warn(
            f"{text.one_line(str(path))} has pixels of 16 bits with values up to 255 only, and "
            "is read as black; save it as an 8-bit PNG",
            DataWarning,
            stacklevel=2,
        )
    return image
