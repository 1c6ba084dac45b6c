"""What the demo page does with an upload before the network sees it, and its example pictures."""

import io
import warnings

import numpy as np
from PIL import Image

from cnn_jax import data
from cnn_jax.data import pictures
from cnn_jax.inspection import trained_network

PIXELS = 16_000_000  # of a picture
SIDE = 16_384  # pixels of a picture's longer side
TOLERANCE = 0.02  # of proportions that are called the same


def prepare(
    network: trained_network.Trained, content: bytes, invert: str, fit: data.Fit
) -> tuple[np.ndarray, list[str]]:
    """Returns a picture file as uint8 pixels [H, W, C] for the network, and what was done with it.

    `invert` is '0', '1' or 'auto', `fit` as in `decode`; what was done is a list of sentences.

    Raises:
      DataError: as `decode`.
    """
    image, fitted = decode(content, network.image_shape, fit)
    inverted = None
    if invert == "auto":
        image, inverted = invert_if_needed(network, image)
    elif invert == "1":
        image, inverted = 255 - image, "The picture was inverted."
    return image, [sentence for sentence in (inverted, fitted) if sentence]


def choose_fit(network: trained_network.Trained) -> data.Fit:
    """Returns how pictures are brought to the network's size: as the training images were.

    Where those had their size already, pictures keep their proportions.
    """
    kind = network.config.dataset.name.partition(":")[0]
    return "pad" if kind in (*data.DATASETS, "fashion_mnist_mini") else network.fit


class Upload(io.BytesIO):
    """Bytes that error messages call by a name."""

    def __str__(self) -> str:
        return "the file"


def decode(
    content: bytes, shape: tuple[int, int, int], fit: data.Fit = "stretch"
) -> tuple[np.ndarray, str | None]:
    """Returns a picture file as uint8 pixels of the shape [H, W, C], brought to it as `fit` says.

    The second is a sentence if the proportions are others. For C other than 1 and 3 every channel
    holds the gray picture. To be called by one thread at a time, as what Python does with warnings
    is the whole process's.

    Raises:
      DataError: it is no picture, damaged, or larger than the page takes.
    """
    if not content:
        raise data.DataError("no picture was sent; choose a picture file, or draw one.")
    height, width, channels = shape
    kinds = 3 if channels == 3 else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on damaged metadata, which the picture may do without
        try:
            _check_size(content)
            whole = data.decode_picture(Upload(content), kinds)
            picture = Image.fromarray(whole if kinds == 3 else whole[..., 0])
            fitted = np.asarray(pictures.resize(picture, (height, width), fit))
        except data.DataError:
            raise
        except Exception as error:  # decoders raise what they like
            raise data.DataError(
                f"the file is truncated or damaged ({type(error).__name__}); replace it."
            ) from error
    image = fitted.reshape(height, width, kinds)
    repeated = image if channels == kinds else np.repeat(image, channels, -1)
    return repeated, say_fit(picture.size, (width, height), fit)


def _check_size(content: bytes) -> None:
    """Raises DataError if a picture announces more pixels than the page takes."""
    try:
        with Image.open(io.BytesIO(content), formats=pictures.FORMATS) as picture:
            tags = getattr(picture, "tag_v2", {})  # TIFF's tiles may be larger than the picture
            width, height = (
                max(size, *np.ravel(tags.get(tag, 0)).tolist())
                for size, tag in zip(picture.size, (322, 323), strict=True)
            )
    except (OSError, Image.DecompressionBombError):
        return  # `data.decode_picture` says what is wrong
    if width * height > PIXELS or max(width, height) > SIDE:
        raise data.DataError(
            f"the picture announces {width}x{height} pixels; scale it down to at most {PIXELS:,} "
            f"pixels, and at most {SIDE:,} on a side."
        )


def say_fit(before: tuple[int, int], after: tuple[int, int], fit: data.Fit) -> str | None:
    """Returns how a picture was fitted, by (width, height) before and after.

    >>> say_fit((600, 800), (28, 28), "crop")
    'The picture has 600×800 pixels: its middle was cut out and scaled to 28×28.'
    >>> say_fit((60, 60), (28, 28), "crop")
    """
    if abs(before[0] * after[1] / (before[1] * after[0]) - 1) <= TOLERANCE:
        return None
    to = f"to {after[0]}×{after[1]}"
    how = {
        "stretch": f"it was stretched {to}, which changes its proportions",
        "pad": f"it was scaled {to} with a border, which keeps its proportions",
        "crop": f"its middle was cut out and scaled {to}",
    }[fit]
    return f"The picture has {before[0]}×{before[1]} pixels: {how}."


def invert_if_needed(
    network: trained_network.Trained, image: np.ndarray
) -> tuple[np.ndarray, str | None]:
    """Returns an image [H, W, C], inverted if that makes its ground like the training images'.

    The second is a sentence if it was. Nothing is known of the ground if the run is of an earlier
    version.
    """
    brightness = data.border_brightness(image[None])
    if not _is_strange(network, brightness) or _is_strange(network, 1 - brightness):
        return image, None
    kinds = ["light on dark", "dark on light"]
    own, trained = kinds if brightness < 0.5 else kinds[::-1]
    return 255 - image, (
        f"The picture is {own}, and the network was trained on {trained}: it was inverted."
    )


def warn_of_ground(network: trained_network.Trained, image: np.ndarray) -> str | None:
    """Returns a sentence if the ground of an image [H, W, C] is unlike the training images'."""
    brightness = data.border_brightness(image[None])
    if not _is_strange(network, brightness):
        return None
    mean = network.data["border"][0]
    sentence = (
        f"The picture's border is much {'lighter' if brightness > mean else 'darker'} than those "
        "of the training images, so the guess means little"
    )
    helps = not _is_strange(network, 1 - brightness)
    return f"{sentence}; try it inverted." if helps else f"{sentence}."


def _is_strange(network: trained_network.Trained, brightness: np.ndarray) -> bool:
    return trained_network.warn_of_ground(network.data, brightness) is not None


def load_examples(name: str, class_names: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Returns a test image [H, W, C] of each class, with the class's name.

    Only those of Fashion-MNIST come with the package; of other data sets there are none.
    """
    if not name.startswith("fashion_mnist"):
        return []
    mini = data.load("fashion_mnist_mini")
    if mini.class_names != class_names:
        return []
    first = [int(np.argmax(mini.test_labels == label)) for label in range(len(class_names))]
    return [(class_names[int(mini.test_labels[i])], mini.test_images[i]) for i in first]
