"""What torchvision's networks compute: `python -m tests.golden.make_torchvision` writes a file.

Only this script needs PyTorch and torchvision (made with 2.14.1 and 0.29.1, on a CPU). As in
make_golden, weights, statistics and pictures come from seeds, so that the file holds the names and
shapes of the state dicts, and logits.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.golden.make_golden import CLASSES, initial_state

FILE = Path(__file__).with_name("torchvision.npz")


class Case(NamedTuple):
    """The size of the pictures, the network's name and options there.

    `variance` multiplies the running variances, so that logits are of size 1 to 10.
    """

    size: int
    name: str
    variance: float = 1.0
    options: dict = {}  # noqa: RUF012, never changed


# By the names of the networks here.
CASES = {
    "resnet18": Case(40, "resnet18"),
    "resnet34": Case(33, "resnet34", 1.4),
    "resnet50": Case(64, "resnet50", 1.2),
    "resnext50_32x4d": Case(48, "resnext50_32x4d", 1.2),
    "densenet121": Case(64, "densenet121", 0.7),
    "regnetx_3_2gf": Case(64, "regnet_x_3_2gf", 1.3),
    "alexnet_torchvision": Case(224, "alexnet"),
    "vgg11_bn": Case(224, "vgg11_bn", 0.8),
    "googlenet_torchvision": Case(97, "googlenet", 0.75, {"init_weights": False}),
}


def make_state(shapes, variance):
    """Returns a state dict of these shapes; running variances are multiplied by `variance`."""
    return {
        name: np.float32(variance) * value if name.endswith("running_var") else value
        for name, value in initial_state(shapes).items()
    }


def pictures(size):
    """Returns two pictures, [2, size, size, 3]: noise over one color."""
    random = np.random.RandomState(2015)
    color = random.normal(0, 1, (2, 1, 1, 3))
    return (color + random.normal(0, 1, (2, size, size, 3))).astype(np.float32)


def features():
    """Returns what may enter GoogLeNet's first auxiliary classifier, [N, H, W, C]."""
    return np.random.RandomState(2014).uniform(0, 1, (2, 14, 14, 512)).astype(np.float32)


def main():
    import torch
    import torchvision

    arrays = {}
    for here, (size, name, variance, options) in CASES.items():
        net = torchvision.models.get_model(name, num_classes=CLASSES, **options).eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        state = {key: torch.tensor(value) for key, value in make_state(shapes, variance).items()}
        net.load_state_dict(state)
        x = torch.tensor(pictures(size)).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            logits = net(x).numpy()
            if here == "googlenet_torchvision":
                inner = torch.tensor(features()).permute(0, 3, 1, 2).contiguous()
                arrays[f"{here}/auxiliary"] = net.aux1(inner).numpy()
        arrays[f"{here}/shapes"] = np.array(json.dumps(shapes))
        arrays[f"{here}/logits"] = logits
        print(here, np.abs(logits).max(), np.ptp(logits, axis=0).max())
    np.savez_compressed(FILE, **arrays)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
