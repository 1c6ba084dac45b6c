"""What the operations mean, as loops over NumPy float64 arrays: slow, plain, independent.

Layout as in the package: images `[N, *spatial, C]`, kernels `[*spatial, C_in/groups, C_out]`.
"""

import itertools

import numpy as np

# Convolution


def source(i, n, mode):
    """Where position i (possibly outside [0, n)) of a padded axis is read from; None means zero."""
    if 0 <= i < n:
        return i
    if mode == "zeros":
        return None
    if mode == "replicate":
        return 0 if i < 0 else n - 1
    if mode == "circular":
        return i + n if i < 0 else i - n
    if mode == "reflect":
        return -i if i < 0 else 2 * (n - 1) - i
    raise ValueError(mode)


def output_sizes(sizes, window, strides, pads, dilation):
    """How often the window fits along each axis, counted."""
    shape = []
    for n, k, s, (before, after), d in zip(sizes, window, strides, pads, dilation, strict=True):
        first, count = 0, 0
        while first + d * (k - 1) < n + before + after:
            first, count = first + s, count + 1
        shape.append(count)
    return shape


def conv_steps(sizes, window, strides, pads, dilation, mode):
    """Yields (output position, tap, input position) for every product that isn't with a zero."""
    shape = output_sizes(sizes, window, strides, pads, dilation)
    axes = [
        [(o, u, source(s * o + d * u - before, n, mode)) for o in range(outputs) for u in range(k)]
        for n, outputs, k, s, (before, _), d in zip(
            sizes, shape, window, strides, pads, dilation, strict=True
        )
    ]
    for steps in itertools.product(*axes):
        out, tap, position = zip(*steps, strict=True)
        if None not in position:
            yield out, tap, position


def conv(x, kernel, strides, pads, dilation, groups=1, mode="zeros"):
    """The sum of x[n, s·i + d·u − p, c] kernel[u, c, o] over u and the channels c of o's group."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    sizes, window, features = x.shape[1:-1], kernel.shape[:-2], kernel.shape[-1]
    shape = output_sizes(sizes, window, strides, pads, dilation)
    y = np.zeros((x.shape[0], *shape, features))
    for out, tap, position in conv_steps(sizes, window, strides, pads, dilation, mode):
        for c, o in group_slices(x.shape[-1], features, groups):
            y[:, *out, o] += x[:, *position, c] @ kernel[*tap][:, o]
    return y


def conv_gradients(x, kernel, g, strides, pads, dilation, groups=1, mode="zeros"):
    """Gradients of sum(g · conv(x, kernel)) with respect to x and to the kernel."""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    sizes, window = x.shape[1:-1], kernel.shape[:-2]
    for out, tap, position in conv_steps(sizes, window, strides, pads, dilation, mode):
        for c, o in group_slices(x.shape[-1], kernel.shape[-1], groups):
            dx[:, *position, c] += g[:, *out, o] @ kernel[*tap][:, o].T
            dkernel[*tap][:, o] += x[:, *position, c].T @ g[:, *out, o]
    return dx, dkernel


def group_slices(channels, features, groups):
    """The channels and the features of each group."""
    c, o = channels // groups, features // groups
    return [(slice(i * c, i * c + c), slice(i * o, i * o + o)) for i in range(groups)]


# Pooling
