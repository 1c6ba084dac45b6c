"""What PyTorch computes with these networks: run as a module, it writes networks.npz.

`python -m tests.golden.make_golden NAME…` computes these cases alone and keeps the file's others.
Only this script needs PyTorch (2.x, CPU). The networks are written as course notes on PyTorch write
them, or are the benchmark's, at small widths and sizes; weights and pictures are made from seeds by
NumPy's RandomState, whose streams never change, so that the file holds only results: logits, the
loss, and samples of every parameter after one and after two steps of SGD with momentum and weight
decay.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_name("networks.npz")
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
EXAMPLES, CLASSES = 4, 10
SAMPLES = 12  # of each parameter


class Case(NamedTuple):
    """A network, as cnn_jax.models.create takes it, and the shape [H, W, C] of its pictures."""

    model: str
    options: dict
    input_shape: tuple[int, int, int]


CASES = {
    "softmax": Case("softmax", {}, (8, 8, 1)),
    "mlp": Case("mlp", {"hidden": (32,)}, (8, 8, 3)),
    "lenet": Case("lenet", {}, (28, 28, 1)),
    "lenet_max": Case("lenet_max", {}, (28, 28, 1)),
    "lenet_improved": Case("lenet_improved", {}, (28, 28, 1)),
    "lenet_bn": Case("lenet_bn", {}, (28, 28, 1)),
    "alexnet": Case(
        "alexnet", {"width": 1 / 8, "hidden": (48, 40), "dropout": (0.0, 0.0)}, (99, 99, 1)
    ),
    "alexnet_notes": Case(
        "alexnet_notes", {"width": 1 / 8, "hidden": (48,), "dropout": (0.0,)}, (99, 99, 1)
    ),
    "vgg11": Case(
        "vgg11", {"width": 1 / 16, "hidden": (48, 40), "dropout": (0.0, 0.0)}, (64, 64, 1)
    ),
    "vgg11_bn": Case(
        "vgg11_bn", {"width": 1 / 16, "hidden": (48, 40), "dropout": (0.0, 0.0)}, (64, 64, 1)
    ),
    "nin": Case("nin", {"width": 1 / 8, "dropout": (0.0,)}, (99, 99, 1)),
    "googlenet": Case("googlenet", {"width": 1 / 8}, (64, 64, 1)),
    "cifar_quick": Case("cifar_quick", {}, (32, 32, 3)),
    "cifar_quick_relu": Case("cifar_quick", {"activation": "relu"}, (32, 32, 3)),
    "resnet18_book": Case("resnet18_book", {"stages": ((1, 8), (2, 16))}, (32, 32, 1)),
    "resnet20": Case("resnet20", {"stages": ((2, 4), (1, 8), (1, 16))}, (15, 15, 3)),
    "plain20": Case("plain20", {"stages": ((1, 4), (1, 8), (1, 16))}, (16, 16, 3)),
    "resnet18_preactivated": Case(
        "resnet18", {"stages": ((1, 8), (2, 16)), "preactivation": True}, (33, 33, 3)
    ),
    "resnet20_preactivated": Case(
        "resnet20", {"stages": ((1, 4), (2, 8)), "preactivation": True}, (16, 16, 3)
    ),
    "resnext50_32x4d": Case(
        "resnext50_32x4d",
        {"stages": ((1, 16), (1, 32)), "groups": 4, "group_width": 16},
        (32, 32, 3),
    ),
    "wrn16_4": Case("wrn16_4", {"stages": ((1, 16), (1, 24), (1, 32))}, (16, 16, 3)),
    "densenet_book": Case("densenet_book", {"blocks": (2, 3), "growth_rate": 6}, (32, 32, 1)),
    "densenet121": Case("densenet121", {"blocks": (2, 2), "growth_rate": 4}, (32, 32, 3)),
    "regnetx32_book": Case(
        "regnetx32_book", {"stages": ((1, 8), (2, 24)), "group_width": 4}, (24, 24, 1)
    ),
    "alexnet_torchvision": Case(
        "alexnet_torchvision",
        {"width": 1 / 8, "hidden": (48, 40), "dropout": (0.0, 0.0)},
        (99, 99, 3),
    ),
}


def torch_network(name):
    """Returns the torch.nn.Module for CASES[name]."""
    from torch import cat, nn, zeros

    model, options, (height, width, channels) = CASES[name]
    ratio = options.get("width", 1)
    hidden = options.get("hidden")

    def scaled(c):
        return round(c * ratio)

    def lenet(activation, pool, norm=False):
        def normalize(layer, features):
            return [layer(features)] if norm else []

        return nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=5, padding=2),
            *normalize(nn.BatchNorm2d, 6),
            activation(),
            pool(kernel_size=2, stride=2),
            nn.Conv2d(6, 16, kernel_size=5),
            *normalize(nn.BatchNorm2d, 16),
            activation(),
            pool(kernel_size=2, stride=2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            *normalize(nn.BatchNorm1d, 120),
            activation(),
            nn.Linear(120, 84),
            *normalize(nn.BatchNorm1d, 84),
            activation(),
            nn.Linear(84, CLASSES),
        )

    class AlexNet(nn.Module):
        def __init__(self, padding):
            super().__init__()
            c1, c2, c3, c4, c5 = map(scaled, (96, 256, 384, 384, 256))
            self.conv = nn.Sequential(
                nn.Conv2d(channels, c1, 11, 4, padding),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
                nn.Conv2d(c1, c2, 5, 1, 2),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
                nn.Conv2d(c2, c3, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(c3, c4, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(c4, c5, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
            )
            sizes = (c5 * 2 * 2, *hidden)
            dense = []
            for inputs, outputs in itertools.pairwise(sizes):
                dense += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.0)]
            self.fc = nn.Sequential(*dense, nn.Linear(sizes[-1], CLASSES))

        def forward(self, img):
            feature = self.conv(img)
            return self.fc(feature.reshape(img.shape[0], -1))

    def vgg_block(num_convs, in_channels, out_channels, norm):
        blk = []
        for i in range(num_convs):
            inputs = in_channels if i == 0 else out_channels
            blk.append(nn.Conv2d(inputs, out_channels, kernel_size=3, padding=1))
            if norm:
                blk.append(nn.BatchNorm2d(out_channels))
            blk.append(nn.ReLU())
        blk.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*blk)

    def vgg(norm):
        conv_arch = ((1, 1, 64), (1, 64, 128), (2, 128, 256), (2, 256, 512), (2, 512, 512))
        net = nn.Sequential()
        for i, (num_convs, inputs, outputs) in enumerate(conv_arch):
            inputs = channels if i == 0 else scaled(inputs)
            net.add_module(
                f"vgg_block_{i + 1}", vgg_block(num_convs, inputs, scaled(outputs), norm)
            )
        net.add_module(
            "fc",
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(scaled(512) * 2 * 2, hidden[0]),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.Linear(hidden[0], hidden[1]),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.Linear(hidden[1], CLASSES),
            ),
        )
        return net

    def nin_block(in_channels, out_channels, kernel_size, stride, padding):
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=1),
            nn.ReLU(),
        )

    def nin():
        c1, c2, c3 = map(scaled, (96, 256, 384))
        return nn.Sequential(
            nin_block(channels, c1, kernel_size=11, stride=4, padding=0),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nin_block(c1, c2, kernel_size=5, stride=1, padding=2),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nin_block(c2, c3, kernel_size=3, stride=1, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Dropout(0.0),
            nin_block(c3, CLASSES, kernel_size=3, stride=1, padding=1),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
        )

    class Inception(nn.Module):
        def __init__(self, in_c, c1, c2, c3, c4):
            super().__init__()
            in_c, c1, c4 = scaled(in_c), scaled(c1), scaled(c4)
            c2, c3 = [scaled(c) for c in c2], [scaled(c) for c in c3]
            self.p1_1 = nn.Conv2d(in_c, c1, kernel_size=1)
            self.p2_1 = nn.Conv2d(in_c, c2[0], kernel_size=1)
            self.p2_2 = nn.Conv2d(c2[0], c2[1], kernel_size=3, padding=1)
            self.p3_1 = nn.Conv2d(in_c, c3[0], kernel_size=1)
            self.p3_2 = nn.Conv2d(c3[0], c3[1], kernel_size=5, padding=2)
            self.p4_1 = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
            self.p4_2 = nn.Conv2d(in_c, c4, kernel_size=1)

        def forward(self, x):
            p1 = self.p1_1(x).relu()
            p2 = self.p2_2(self.p2_1(x).relu()).relu()
            p3 = self.p3_2(self.p3_1(x).relu()).relu()
            p4 = self.p4_2(self.p4_1(x)).relu()
            return cat((p1, p2, p3, p4), dim=1)

    def googlenet():
        def pool():
            return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        c64, c192 = scaled(64), scaled(192)
        b1 = nn.Sequential(
            nn.Conv2d(channels, c64, kernel_size=7, stride=2, padding=3), nn.ReLU(), pool()
        )
        b2 = nn.Sequential(
            nn.Conv2d(c64, c64, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(c64, c192, kernel_size=3, padding=1),
            nn.ReLU(),
            pool(),
        )
        b3 = nn.Sequential(
            Inception(192, 64, (96, 128), (16, 32), 32),
            Inception(256, 128, (128, 192), (32, 96), 64),
            pool(),
        )
        b4 = nn.Sequential(
            Inception(480, 192, (96, 208), (16, 48), 64),
            Inception(512, 160, (112, 224), (24, 64), 64),
            Inception(512, 128, (128, 256), (24, 64), 64),
            Inception(512, 112, (144, 288), (32, 64), 64),
            Inception(528, 256, (160, 320), (32, 128), 128),
            pool(),
        )
        b5 = nn.Sequential(
            Inception(832, 256, (160, 320), (32, 128), 128),
            Inception(832, 384, (192, 384), (48, 128), 128),
            nn.AdaptiveAvgPool2d((1, 1)),
        )
        return nn.Sequential(b1, b2, b3, b4, b5, nn.Flatten(), nn.Linear(scaled(1024), CLASSES))

    def cifar_quick(activation):
        return nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            activation(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5, padding=2),
            activation(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            activation(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1024, 64),
            activation(),
            nn.Linear(64, 10),
        )

    def lenet_improved():
        return nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=3, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Conv2d(6, 10, kernel_size=3),
            nn.ReLU(),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Conv2d(10, 16, kernel_size=3),
            nn.ReLU(),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Flatten(),
            nn.Linear(16 * 2 * 2, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 20),
            nn.ReLU(),
            nn.Linear(20, CLASSES),
        )

    pixels = height * width * channels
    if model == "softmax":
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, CLASSES))
    if model == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], CLASSES)
        )
    if model in ("lenet", "lenet_bn"):
        return lenet(nn.Sigmoid, nn.AvgPool2d, norm=model == "lenet_bn")
    if model == "lenet_max":
        return lenet(nn.Sigmoid, nn.MaxPool2d)
    if model == "lenet_improved":
        return lenet_improved()
    if model in ("alexnet", "alexnet_notes"):
        return AlexNet(padding=1 if model == "alexnet" else 0)
    if model in ("vgg11", "vgg11_bn"):
        return vgg(norm=model == "vgg11_bn")
    if model == "nin":
        return nin()
    if model == "googlenet":
        return googlenet()
    if model == "cifar_quick":
        return cifar_quick(nn.ReLU if "activation" in options else nn.Identity)

    from experiments import torch_networks

    net = torch_networks.build(
        model, CLASSES, **{k: v for k, v in options.items() if k != "dropout"}
    )
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = options["dropout"][0]
    net(zeros(2, channels, height, width))
    return net


def initial_state(shapes):
    """Returns arrays of these shapes, {name: shape} as a state dict has them, from one seed."""
    random = np.random.RandomState(2016)  # its stream is frozen, Generator's is not
    state = {}
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        unit = random.uniform(-1, 1, shape).astype(np.float32)
        if leaf == "num_batches_tracked":
            state[name] = np.zeros((), np.int64)
        elif leaf == "running_var":
            state[name] = 1.5 + 0.5 * unit
        elif leaf == "weight" and len(shape) == 1:
            state[name] = 1 + 0.2 * unit
        elif leaf == "weight":
            state[name] = unit * np.float32(np.sqrt(6 / np.prod(shape[1:])))
        else:
            state[name] = 0.1 * unit
    return state


def examples(input_shape):
    """Returns pictures [N, H, W, C] and labels [N]."""
    random = np.random.RandomState(2019)
    images = random.uniform(0, 1, (EXAMPLES, *input_shape)).astype(np.float32)
    return images, random.randint(0, CLASSES, EXAMPLES).astype(np.int32)


def sample(value):
    """Returns up to SAMPLES entries, spread evenly."""
    flat = np.ravel(value)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)]


def run_torch(name):
    """Returns {'shapes', 'logits', 'losses', 'states'}: before, and after each of two SGD steps."""
    import torch

    torch.manual_seed(0)
    net = torch_network(name)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    state = {key: torch.tensor(value) for key, value in initial_state(shapes).items()}
    net.load_state_dict(state)
    images, labels = examples(CASES[name].input_shape)
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(labels, dtype=torch.long)

    net.eval()
    with torch.no_grad():
        logits = net(x).numpy()
    net.train()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    losses, states = [], []
    for _ in range(2):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        states.append({key: value.numpy().copy() for key, value in net.state_dict().items()})
    return {"shapes": shapes, "logits": logits, "losses": losses, "states": states}


def main():
    chosen = sys.argv[1:] or list(CASES)
    with np.load(FILE) as file:
        arrays = {key: file[key] for key in file if key.split("/")[0] not in chosen}
    for name in chosen:
        result = run_torch(name)
        arrays[f"{name}/shapes"] = np.array(json.dumps(result["shapes"]))
        arrays[f"{name}/logits"] = result["logits"]
        arrays[f"{name}/losses"] = np.array(result["losses"])
        for step, state in enumerate(result["states"], 1):
            samples = [sample(value).astype(np.float32) for value in state.values()]
            arrays[f"{name}/step{step}"] = np.concatenate(samples)
        print(name, result["losses"], np.abs(result["logits"]).max())
    np.savez_compressed(FILE, **arrays)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
