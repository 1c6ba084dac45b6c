"""Where windows go: what sizes, strides, padding and dilation mean, and what is refused."""

import numpy as np
import pytest

from cnn_jax.ops import ArgumentError
from cnn_jax.ops.windows import Geometry, geometry, pairs, per_axis


def test_geometry_by_hand():
    # Spans 1 + 2·2 = 5 and 2 on 7 + 3 and 9 pixels, in steps of 3 and 2.
    got = geometry((7, 9), (3, 2), (3, 2), ((1, 2), (0, 0)), (2, 1))
    assert got == Geometry((3, 2), ((1, 2), (0, 0)), (2, 1), (2, 4))
    assert geometry((6,), (3,), 1, 0, 1) == Geometry((1,), ((0, 0),), (1,), (4,))
    assert geometry((1, 1, 1), (1, 1, 1), 1, 0, 1).output == (1, 1, 1)


def test_a_window_may_be_as_large_as_the_padded_input():
    assert geometry((5,), (3,), 1, 0, 2).output == (1,)
    assert geometry((1,), (4,), 1, ((1, 2),), 1).output == (1,)
    message = (
        r"the kernel spans 5 pixels on spatial axis 1 \(size 3, dilation 2\), but the input has 3 "
        r"and 1 of padding; pad more or take a smaller kernel\."
    )
    with pytest.raises(ArgumentError, match=message):
        geometry((9, 3), (2, 3), 1, ((0, 0), (1, 0)), (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (0, 4)}, "input size must be an integer of at least 1"),
        ({"window": (2, 0)}, "kernel size must be an integer of at least 1"),
        ({"strides": 0}, "strides must be an integer of at least 1"),
        ({"dilation": 0}, "dilation must be an integer of at least 1"),
        ({"padding": -1}, "a number of at least 0, or for each of 2 spatial axes"),
    ],
)
def test_options_out_of_range(options, message):
    plain = {"sizes": (4, 4), "window": (2, 2), "strides": 1, "padding": 0, "dilation": 1}
    with pytest.raises(ArgumentError, match=message):
        geometry(**{**plain, **options})


def test_one_number_or_one_per_axis():
    assert per_axis("strides", 3, 2, 1) == (3, 3)
    assert per_axis("strides", np.int8(3), 1, 3) == (3,)
    assert per_axis("strides", [1, 2], 2, 1) == (1, 2)
    assert per_axis("strides", np.array([0, 2]), 2, 0) == (0, 2)
    for value in (0, (1, 0), (1,), (1, 2, 3), (), 1.0, (1, 2.0), "2", None, True, (1, True)):
        with pytest.raises(ArgumentError) as error:
            per_axis("strides", value, 2, 1)
        assert str(error.value) == (
            "strides must be an integer of at least 1, or one for each of 2 spatial axes, "
            f"got {value!r}."
        )


@pytest.mark.parametrize(
    ("size", "span", "stride", "expected"),
    [
        (5, 3, 1, (1, 1)),
        (5, 2, 1, (0, 1)),  # an odd one out at the end
        (5, 4, 2, (1, 2)),  # windows start at -1, 1, 3 and end at 6
        (6, 3, 2, (0, 1)),
        (7, 1, 3, (0, 0)),
        (4, 1, 3, (0, 0)),
        (5, 2, 4, (0, 1)),
        (6, 2, 4, (0, 0)),
        (8, 2, 4, (0, 0)),  # windows end two pixels before the input
        (1, 6, 3, (2, 3)),
    ],
)
def test_same_pads_for_the_size_over_the_stride(size, span, stride, expected):
    assert pairs("SAME", (size,), (span,), (stride,)) == (expected,)
    twice = pairs("SAME", (size, 5), (span, 3), (stride, 1))
    assert twice == (expected, (1, 1))


def test_padding_in_every_form():
    for padding, expected in (
        ("VALID", ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        (0, ((0, 0), (0, 0))),
        ((1, 2), ((1, 1), (2, 2))),
        ([(0, 1), 2], ((0, 1), (2, 2))),
        (((1, 0), (3, 4)), ((1, 0), (3, 4))),
        (np.array([[1, 0], [3, 4]]), ((1, 0), (3, 4))),
    ):
        assert pairs(padding, (9, 9), (2, 2), (1, 1)) == expected
    for padding in (-1, (0, -1), ((0, 0), (0, -1)), (1,), (1, 1, 1), ((1, 2, 3), 1), 1.0, None, ()):
        with pytest.raises(ArgumentError) as error:
            pairs(padding, (9, 9), (2, 2), (1, 1))
        assert str(error.value) == (
            "padding must be 'SAME', 'VALID', a number of at least 0, or for each of 2 spatial "
            f"axes such a number or a pair (before, after), got {padding!r}."
        )
    with pytest.raises(ArgumentError, match="padding='same' is unknown; choose 'SAME', 'VALID'"):
        pairs("same", (9, 9), (2, 2), (1, 1))
