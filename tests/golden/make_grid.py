"""What PyTorch computes for the random grids of options: run as a module, it writes grid.npz.

python -m tests.golden.make_grid

Only this needs PyTorch (2.x, CPU). The cases are those of tests/test_convolution_grid.py and
tests/test_pooling_grid.py; of convolutions they are small integers, so the results are exact.
"""

import functools
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("grid.npz")
CONVOLUTIONS, POOLINGS = 100, 200  # so many of each grid's first cases


@functools.cache
def stored() -> dict[str, np.ndarray]:
    """Returns {'conv 0 value': …, 'conv 0 input gradient': …, 'pool 3 gradient': …}."""
    with np.load(FILE) as file:
        return dict(file)


def main() -> None:
    """Writes the file."""
    from tests import test_convolution_grid as convolution
    from tests import test_pooling_grid as pooling

    found = {}
    for seed in range(CONVOLUTIONS):
        case = convolution.random_case(seed)
        g, _ = convolution.by_reference(case, seed)
        for name, array in zip(convolution.RESULTS, convolution.by_torch(case, g), strict=True):
            found[f"conv {seed} {name}"] = array.astype(np.int16)
            assert (found[f"conv {seed} {name}"] == array).all()
    for seed in range(POOLINGS):
        kind, _, window, options, pads, extra = pooling.random_case(seed)
        x, g, *_ = pooling.by_reference(seed)
        strides = options["strides"] or window
        if results := pooling.by_torch(x, g, kind, window, strides, pads, options, extra):
            for name, array in zip(("value", "gradient"), results, strict=True):
                found[f"pool {seed} {name}"] = array
    np.savez_compressed(FILE, **found)
    print(f"{len(found)} arrays of results in {FILE}")


if __name__ == "__main__":
    main()
