"""The colors of all figures, of TensorBoard's images and of the demo page.

Okabe and Ito's for curves, and ColorBrewer's RdBu for numbers with a sign: both are told apart by
every kind of color vision.
"""

import numpy as np

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
TRAIN, TEST = COLORS[:2]
NEUTRAL = "#666666"
WRONG = "#C00000"
# From the most negative over 0 in the middle to the most positive.
SIGNED = (
    *("#053061", "#2166AC", "#4393C3", "#92C5DE", "#D1E5F0"),
    "#F7F7F7",
    *("#FDDBC7", "#F4A582", "#D6604D", "#B2182B", "#67001F"),
)
SIGN = "blue below 0, white at 0, red above"


def measure_scale(values: np.ndarray) -> float:
    """Returns the largest finite magnitude, and never 0: the end of a scale from -x to x.

    >>> measure_scale(np.array([0.5, -2.0, np.inf, np.nan]))
    2.0
    """
    finite = np.isfinite(values)
    magnitudes = np.abs(np.asarray(values, np.float64))
    return float(np.max(magnitudes, initial=1e-12, where=finite))


def color_signed(values: np.ndarray, scale: float) -> np.ndarray:
    """Returns the colors of numbers from -scale to scale, uint8 [..., 3]; those beyond are clipped.

    NaN is gray.

    >>> color_signed(np.array([-9.0, 0.0, 1.0]), 1.0).tolist()
    [[5, 48, 97], [247, 247, 247], [103, 0, 31]]
    """
    table = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in SIGNED])
    unknown = np.isnan(values)
    position = np.clip(np.where(unknown, 0, values), -scale, scale) / scale
    known = np.linspace(-1, 1, len(table))
    mixed = np.stack([np.interp(position, known, part) for part in table.T], -1)
    mixed[unknown] = int(NEUTRAL[1:3], 16)
    return np.rint(mixed).astype(np.uint8)
