"""Convolution in a form that XLA's CPU backend runs fast: the same finite numbers.

XLA:CPU has one fast convolution, channels last. Inside a `lax.scan` other orders of dimensions, in
which the gradients of `lax.conv_general_dilated` come, are much slower. So the derivative here is
written such that its *transpose*, which reverse mode runs, is channels last. Everything is a
composition of lax operations: jvp, vjp, vmap, higher derivatives and checkpointing work.
Measurements are in experiments/reports/cpu_operations.md.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from cnn_jax.ops.numerics import to_float


class Options(NamedTuple):
    """Options of `lax.conv_general_dilated`, one entry for each spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


Convolve = Callable[[Array, Array, Options], Array]

BLOCK = 8  # outputs of a row in one product, at most


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def cpu_conv(x: Array, kernel: Array, options: Options) -> Array:
    """`[N, *spatial, C_in]`, `[*spatial, C_in/groups, C_out]` → `[N, *output sizes, C_out]`."""
    if _is_pointwise(kernel, options):
        return _pointwise(x, kernel, options)
    if x.shape[-1] == 1 and _goes_by_blocks(x, kernel, options):
        return _by_blocks(x, kernel, options)
    return _fold(lax_conv, _fold_factor(x, kernel, options))(x, kernel, options)


@partial(cpu_conv.defjvp, symbolic_zeros=True)
def _conv_jvp(
    options: Options, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    if _is_pointwise(kernel, options):
        input_term: Convolve = _pointwise
        kernel_term: Convolve = _pointwise
    else:
        kernel_term = _fold(_kernel_term, _fold_factor(x, kernel, options))
        few = x.shape[-1] <= (8 if kernel.shape[-3] >= 5 else 3)
        if few and _goes_by_blocks(x, kernel, options):
            input_term = _by_blocks_of_tangent
        else:  # its transpose has the input's channels as outputs, and wants more of them
            input_term = _fold(_input_term, _fold_factor(x, kernel, options, channels=24))
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(input_term(dx, kernel, options))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(kernel_term(_computed_once(x), dkernel, options))
    return cpu_conv(x, kernel, options), sum(terms[1:], terms[0])


def lax_conv(
    x: Array,
    kernel: Array,
    options: Options,
    spec: tuple[str, str, str] | None = None,
    preferred_element_type: Any = None,
) -> Array:
    """`lax.conv_general_dilated` with its own gradients, channels last unless `spec` says else."""
    s = "DHW"[5 - x.ndim :]
    return lax.conv_general_dilated(
        x,
        kernel,
        options.strides,
        options.padding,
        rhs_dilation=options.dilation,
        dimension_numbers=spec or (f"N{s}C", f"{s}IO", f"N{s}C"),
        feature_group_count=options.groups,
        preferred_element_type=preferred_element_type,
    )


def _input_term(dx: Array, kernel: Array, options: Options) -> Array:
    """conv(dx, kernel), whose transpose in dx is a channels-last convolution of the cotangent.

    That transpose reverses the kernel and swaps its channels, so both are done here first; the
    barrier keeps XLA from undoing that.
    """
    s = "DHW"[5 - dx.ndim :]
    window = tuple(range(kernel.ndim - 2))
    swapped = lax.rev(jnp.swapaxes(kernel, -1, -2), window)
    swapped = lax.rev(lax.optimization_barrier(swapped), window)
    return lax_conv(dx, swapped, options, (f"N{s}C", f"{s}OI", f"N{s}C"))


def _kernel_term(x: Array, dkernel: Array, options: Options) -> Array:
    """conv(x, dkernel), whose transpose in dkernel is a channels-last convolution of x by g.

    There the images are the channels of x, the kernel is g, and the sum runs over the batch.
    """
    s = "DHW"[5 - x.ndim :]
    images = lax.optimization_barrier(jnp.swapaxes(x, 0, -1))
    taps = jnp.moveaxis(dkernel, -2, 0)
    y = lax_conv(images, taps, options, (f"C{s}N", f"I{s}O", f"{s}NC"))
    return jnp.moveaxis(lax.optimization_barrier(y), -2, 0)


def _is_pointwise(kernel: Array, options: Options) -> bool:
    unpadded = not any(map(any, options.padding))
    return options.groups == 1 and unpadded and all(k == 1 for k in kernel.shape[:-2])


def _pointwise(x: Array, kernel: Array, options: Options) -> Array:
    """A 1×1 convolution: a product of two matrices, pixels by channels, channels by features.

    Pixels are one axis, as XLA:CPU copies several slowly for the kernel's gradient.
    """
    x = x[:, *(slice(None, None, s) for s in options.strides)]
    matrix = kernel.reshape(kernel.shape[-2:])
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), matrix, (((1,), (0,)), ((), ())))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _goes_by_blocks(x: Array, kernel: Array, options: Options) -> bool:
    """Whether `_by_blocks` applies, compiles fast and takes little memory."""
    if kernel.ndim != 4 or not all(n == 1 for n in (*options.strides, *options.dilation)):
        return False
    rows, taps = kernel.shape[:2]
    width = x.shape[-2] + sum(options.padding[-1]) - taps + 1
    slices, copies = rows * -(-width // BLOCK), rows * (BLOCK + taps - 1) / BLOCK
    return options.groups == 1 and taps > 1 and slices <= 30 and copies <= 8


def _by_blocks(x: Array, kernel: Array, options: Options) -> Array:
    """A two-dimensional convolution as a product of two matrices, several outputs of a row at once.

    A row of the first matrix is all that a block of neighboring outputs sees; the second holds the
    kernel once for each output of the block, each shifted by one. With few channels that is faster
    than Eigen's convolution, though it multiplies by zeros.
    """
    for axis, pair in enumerate(options.padding, 1):
        x = _pad_axis(x, axis, *pair)
    rows, taps, channels, features = kernel.shape
    height, width = x.shape[1] - rows + 1, x.shape[2] - taps + 1
    blocks = -(-width // BLOCK)
    block = -(-width // blocks)
    x = _pad_axis(x, 2, 0, blocks * block - width)
    lines = x.reshape(*x.shape[:2], x.shape[2] * channels)
    step, reach = block * channels, (block + taps - 1) * channels
    starts = [i * step for i in range(blocks)]
    seen = [
        jnp.stack([lines[:, u : u + height, i : i + reach] for i in starts], 2) for u in range(rows)
    ]
    patches = jnp.concatenate(seen, -1)
    matrix = _shifted_copies(kernel, block, 1, block + taps - 1)
    matrix = matrix.reshape(rows * reach, block * features)
    y = lax.dot_general(patches, matrix, (((3,), (0,)), ((), ())))
    return _columns(y, width, features)


def _by_blocks_of_tangent(dx: Array, kernel: Array, options: Options) -> Array:
    """`_by_blocks`, whose transpose computes the gradient once, in rows of several pixels.

    As in `_computed_once`, an infinity makes the rest of its row NaN.
    """
    width, channels = dx.shape[-2:]
    pixels = max(n for n in range(1, width + 1) if width % n == 0 and n * channels <= 64)
    rows = dx.reshape(*dx.shape[:-2], width // pixels, pixels * channels)
    return _by_blocks(_computed_once(rows).reshape(dx.shape), kernel, options)


def _columns(blocks: Array, width: int, features: int) -> Array:
    """`[N, *lead, blocks, block * C_out]` → `[N, *lead, width, C_out]`.

    The rest is cut off while a row is one axis: XLA:CPU is fast along long last axes only.
    """
    rows = blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * blocks.shape[-1])
    rows = lax.slice_in_dim(rows, 0, width * features, axis=rows.ndim - 1)
    return rows.reshape(*rows.shape[:-1], width, features)


def _fold_factor(x: Array, kernel: Array, options: Options, channels: int = 8) -> int:
    """How many outputs of a row to compute as channels, for at least `channels` input channels."""
    block = 1
    if options.groups == 1 and options.dilation[-1] == 1 and kernel.shape[-3] > 1:
        while block * options.strides[-1] * x.shape[-1] < channels:
            block *= 2
    return block


def _fold(convolve: Convolve, block: int) -> Convolve:
    return convolve if block == 1 else partial(_folded, block, convolve)


def _folded(block: int, convolve: Convolve, x: Array, kernel: Array, options: Options) -> Array:
    """A convolution with `block` neighboring outputs of a row as channels of one.

    They see `pixels` new inputs, likewise made channels (a reshape, nothing moves), through a
    kernel that holds the original one `block` times, each shifted by a stride.
    """
    stride, (before, _) = options.strides[-1], options.padding[-1]
    taps, channels, features = kernel.shape[-3:]
    width = (x.shape[-2] + sum(options.padding[-1]) - taps) // stride + 1
    pixels = block * stride
    columns = -(-width // block)
    reach = -(-(taps + (block - 1) * stride) // pixels)
    read = (columns + reach - 1) * pixels
    x = _pad_axis(x, -2, before, read - x.shape[-2] - before)
    x = x.reshape(*x.shape[:-2], read // pixels, pixels * channels)
    kernel = _shifted_copies(kernel, block, stride, reach * pixels)
    kernel = kernel.reshape(*kernel.shape[:-4], reach, pixels * channels, block * features)
    options = options._replace(
        strides=(*options.strides[:-1], 1), padding=(*options.padding[:-1], (0, 0))
    )
    return _columns(convolve(x, kernel, options), width, features)


def _shifted_copies(kernel: Array, copies: int, shift: int, length: int) -> Array:
    """`[..., taps, C, C_out]` → `[..., length, C, copies, C_out]`, copy v moved by v·shift taps.

    Rows of `length + shift` read as rows of `length` start `shift` taps earlier each.
    """
    *rest, taps, channels, features = kernel.shape
    kernel = _pad_axis(kernel, -3, 0, length + shift - taps)
    kernel = lax.broadcast_in_dim(
        kernel,
        (*rest, copies, *kernel.shape[-3:]),
        (*range(len(rest)), *range(len(rest) + 1, len(rest) + 4)),
    )
    kernel = kernel.reshape(*rest, copies * (length + shift), channels, features)
    kernel = _pad_axis(kernel, -3, 0, -copies * shift)
    kernel = kernel.reshape(*rest, copies, length, channels, features)
    return jnp.moveaxis(kernel, -4, -2)


def _pad_axis(x: Array, axis: int, before: int, after: int) -> Array:
    """Zeros before and after along one axis; a negative number crops."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


@jax.custom_jvp
def cpu_add_bias(x: Array, bias: Array) -> Array:
    """`[..., C]` + `[C]`, with the bias's gradient as dot products.

    XLA:CPU uses vector instructions along the last axis only, if that is long. So narrow feature
    maps are summed as whole rows, `[N, H, W * C]`, the shape in which XLA then activates them. An
    infinite bias makes the other channels NaN.
    """
    *lead, width, channels = (1, *x.shape)
    if x.ndim < 4 or channels >= min(64, math.prod(lead)):  # wide, or too few rows
        return x + lax.broadcast_in_dim(bias, x.shape, (x.ndim - 1,))
    # A product copies the bias to each pixel, as it isn't fused; a fused copy takes divisions.
    copies = jnp.tile(jnp.eye(channels, dtype=x.dtype), width)
    row = lax.dot_general(bias, copies, (((0,), (0,)), ((), ())))
    rows = x.reshape(*lead[1:], width * channels)
    return (rows + lax.broadcast_in_dim(row, rows.shape, (rows.ndim - 1,))).reshape(x.shape)


@partial(cpu_add_bias.defjvp, symbolic_zeros=True)
def _add_bias_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    x, bias = primals
    dx, dbias = tangents
    terms = [] if isinstance(dx, SymbolicZero) else [dx]
    if not isinstance(dbias, SymbolicZero):  # the transpose of this outer product sums g by dots
        images, pixels = _images_and_pixels(x)
        dbias, dtype = to_float(dbias)
        rows = lax.broadcast_in_dim(dbias, (images, x.shape[-1]), (1,))
        ones = jnp.ones((images, pixels), rows.dtype)
        term = lax.dot_general(ones, rows, (((), ()), ((0,), (0,)))).reshape(x.shape)
        terms.append(term.astype(dtype))
    return cpu_add_bias(x, bias), _computed_once(sum(terms[1:], terms[0]))


def _computed_once(x: Array) -> Array:
    """x itself, as a product with the identity matrix, which XLA can't fuse with anything.

    Two convolutions and the bias need a gradient, for each of which XLA:CPU would compute it anew,
    pooling and activation included; an `optimization_barrier` doesn't last until it decides that.
    An infinity makes the pixel's other channels NaN.
    """
    channels = x.shape[-1]
    if x.ndim < 3 or channels > 64:  # the product would cost more than it saves
        return x
    identity = jnp.eye(channels, dtype=x.dtype)
    return lax.dot_general(x, identity, (((x.ndim - 1,), (0,)), ((), ())))


def _images_and_pixels(x: Array) -> tuple[int, int]:
    images, *pixels = x.shape[:-1] or (1,)  # [C] is one pixel
    return images, math.prod(pixels)
