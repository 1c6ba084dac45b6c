"""Picture files, decoded to arrays and brought to one size."""

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, features

from cnn_jax import files, text
from cnn_jax.data.notes import DataWarning
from cnn_jax.errors import DataError, DataNotFoundError, PictureError

# None of them is interpreted. Pillow may be built without AVIF.
_ALWAYS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
FORMATS = (*_ALWAYS, *(["AVIF"] if features.check("avif") else []))
# By the bytes 4 to 11: pictures of cameras and of the web that can't be read.
_UNREADABLE = {
    b"ftypavif": "AVIF, which the installed Pillow can't read; install Pillow 11.3 or newer, or",
    b"ftypheic": "HEIC, which can't be read;",
    b"ftypmif1": "HEIF, which can't be read;",
}
MAX_PIXELS = 64_000_000  # of one picture; a small file that announces more is a bomb or a mistake
MAX_FILE = 1 << 30  # bytes; some formats are read whole

# How a picture of other proportions is brought to a size: 'stretch' changes its proportions, 'pad'
# keeps all of it and adds a border of its own ground's color, 'crop' keeps the middle.
Fit = Literal["stretch", "pad", "crop"]
FITS: tuple[Fit, ...] = get_args(Fit)

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
        with _raising_data_errors(shown, _refuse(stream)):
            picture = stack.enter_context(Image.open(stream, formats=FORMATS))
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError(
                f"{shown} announces {picture.width}x{picture.height} pixels, more than "
                f"{MAX_PIXELS}; scale it down or leave it out."
            )
        # 32 bits, of unknown range; mode I of a PGM has 16.
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
            raise PictureError(f"{shown} has pixels of 32 bits, not 8 or 16; save it as 8-bit PNG.")
        with _raising_data_errors(shown, "is truncated or damaged ({}); replace it."):
            yield picture


def _refuse(stream: BinaryIO) -> str:
    """What to say of a file that Pillow doesn't take for a picture."""
    with contextlib.suppress(OSError, ValueError):
        kind = stream.read(12)[4:]
        stream.seek(0)
        if kind in _UNREADABLE and not (kind == b"ftypavif" and "AVIF" in FORMATS):
            return f"is a picture in the format {_UNREADABLE[kind]} save it as PNG or JPEG."
    return f"is not a picture ({', '.join(FORMATS)}); move it away or save it as PNG."


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
        raise PictureError(
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
        raise PictureError(
            f"{shown} announces more than {MAX_PIXELS} pixels; scale it down or leave it out."
        ) from None
    except Exception as error:
        # Damage can lead Pillow outside the file, which the system refuses with EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise cannot_read(shown, error) from error
        reason = sentence.replace("{}", text.one_line(str(error)))
        raise PictureError(f"{shown} {reason}") from error


def resize(picture: Image.Image, size: tuple[int, int], fit: Fit = "stretch") -> Image.Image:
    """Brings a picture to the (height, width) `size`.

    The color that 'pad' adds is the median of each channel over the picture's outermost pixels.
    """
    target = size[1], size[0]
    scales = [new / old for new, old in zip(target, picture.size, strict=True)]
    if fit == "stretch" or scales[0] == scales[1]:
        return picture.resize(target, Image.Resampling.BILINEAR)
    if fit == "crop":
        cut = [(old - new / max(scales)) / 2 for old, new in zip(picture.size, target, strict=True)]
        left, top = (max(0.0, one) for one in cut)
        box = (left, top, picture.width - left, picture.height - top)
        return picture.resize(target, Image.Resampling.BILINEAR, box=box)
    width, height = (max(1, round(old * min(scales))) for old in picture.size)
    pixels = np.asarray(picture)
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    color = np.rint(np.median(np.concatenate(border), 0)).astype(int)
    padded = Image.new(picture.mode, target, tuple(np.atleast_1d(color).tolist()))
    inner = picture.resize((width, height), Image.Resampling.BILINEAR)
    padded.paste(inner, ((target[0] - width) // 2, (target[1] - height) // 2))
    return padded


def decode(
    path: Path | BinaryIO,
    channels: int,
    size: tuple[int, int] | None = None,
    fit: Fit = "stretch",
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
            upright = resize(upright, size, fit)
        pixels = np.asarray(upright, np.uint8)
        return pixels.reshape(upright.height, upright.width, channels), faint


def decode_picture(
    path: Path | BinaryIO,
    channels: int,
    size: tuple[int, int] | None = None,
    fit: Fit = "stretch",
) -> np.ndarray:
    """Decodes a picture to uint8 `[height, width, channels]`, on white where it is transparent.

    `size` is the (height, width) to bring it to, None its own; `fit` says how, see `Fit`.

    Raises:
      DataError: it is no picture, damaged, or unreasonably large; or `channels` isn't 1 or 3.
    """
    image, faint = decode(path, channels, size, fit)
    if faint:
        warnings.warn(
            f"{text.one_line(str(path))} has pixels of 16 bits with values up to 255 only, and "
            "is read as black; save it as an 8-bit PNG",
            DataWarning,
            stacklevel=2,
        )
    return image
