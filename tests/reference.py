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


def largest(elements, count):
    """The first of the largest wins."""
    winner = 0
    for i, element in enumerate(elements):
        if element > elements[winner]:
            winner = i
    return elements[winner], [float(i == winner) for i in range(len(elements))]


def smallest(elements, count):
    value, derivative = largest([-element for element in elements], count)
    return -value, derivative


def mean(elements, count):
    return sum(elements) / count, [1 / count] * len(elements)


def norm(p):
    def of_window(elements, count):
        value = sum(abs(element) ** p for element in elements) ** (1 / p)
        if value == 0:
            return 0.0, [0.0] * len(elements)
        return value, [np.sign(e) * (abs(e) / value) ** (p - 1) if e else 0.0 for e in elements]

    return of_window


def softmax_mean(elements, count):
    weights = [np.exp(element - max(elements)) for element in elements]
    weights = [weight / sum(weights) for weight in weights]
    value = sum(w * element for w, element in zip(weights, elements, strict=True))
    return value, [w * (1 + e - value) for w, e in zip(weights, elements, strict=True)]


def pooling_windows(n, k, stride, pad, dilation, ceil_mode):
    """The positions of each window's taps along one axis: windows are added while they may be."""
    before, after = pad
    windows, first, span = [], -before, dilation * (k - 1) + 1
    while True:
        beyond = first + span - (n + after)  # so far the window would hang over the padded end
        if beyond > 0 and not (ceil_mode and beyond < stride and first < n):
            return windows
        windows.append([first + t * dilation for t in range(k)])
        first += stride


def pool(x, of_window, window, strides, pads, dilation, ceil_mode=False, count_include_pad=True):
    """Pools each channel of x; returns the values and a function g → gradient of sum(g · values).

    of_window(elements, count) → (value, derivative with respect to each element), where elements
    are those of the input, and count is how many the mean is over.
    """
    x = np.asarray(x, np.float64)
    sizes = x.shape[1:-1]
    axes = [
        pooling_windows(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(sizes, window, strides, pads, dilation, strict=True)
    ]
    counted = pads if count_include_pad else [(0, 0)] * len(sizes)
    y = np.zeros((x.shape[0], *map(len, axes), x.shape[-1]))
    shares = []
    for out in np.ndindex(*map(len, axes)):
        taps = list(itertools.product(*(axis[o] for axis, o in zip(axes, out, strict=True))))
        inside = [t for t in taps if within(t, sizes, [(0, 0)] * len(sizes))]
        count = sum(within(t, sizes, counted) for t in taps)
        for i, c in np.ndindex(x.shape[0], x.shape[-1]):
            y[i, *out, c], derivative = of_window([x[i, *t, c] for t in inside], count)
            for t, share in zip(inside, derivative, strict=True):
                shares.append(((i, *out, c), (i, *t, c), share))

    def gradient(g):
        dx = np.zeros(x.shape)
        for out, position, share in shares:
            dx[position] += float(g[out]) * share
        return dx

    return y, gradient


def within(position, sizes, pads):
    """Whether a position lies in the input, extended by pads."""
    return all(
        -before <= i < n + after
        for i, n, (before, after) in zip(position, sizes, pads, strict=True)
    )
