"""Small folders and tars of JPEGs, and how they are loaded."""

import io
import tarfile

import numpy as np
from PIL import Image

from cnn_jax.data import DatasetConfig, streams
from cnn_jax.data.streams import StreamConfig

SMALL = StreamConfig(size=16, short_side=20)
CLASSES = ("ant", "bee", "cat")


def picture(seed, height=30, width=40):
    """A smooth picture, as JPEG is made for."""
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_pictures(root, parts=("train", "test"), count=4):
    """Class folders of JPEGs of several sizes."""
    seed = 0
    for part in parts:
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed += 1
                image = picture(seed, 24 + seed, 40 - seed)
                (folder / f"{index}.jpg").write_bytes(encode(image, quality=90))
    return root


def add_bytes(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def pack_whole(folder, path):
    """One tar with the folders in it."""
    path.mkdir()
    with tarfile.open(path / "all.tar", "w") as tar:
        tar.add(folder, "pictures")


def pack_classes(folder, path):
    """A tar for each part, with one for each class in it, as ImageNet's."""
    path.mkdir()
    for part in ("train", "test"):
        with tarfile.open(path / f"Set_img_{part}.tar", "w") as outer:
            for name in CLASSES:
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as tar:
                    for file in sorted((folder / part / name).iterdir()):
                        tar.add(file, file.name)
                add_bytes(outer, f"{name}.tar", inner.getvalue())


def load(path, settings=SMALL, **options):
    return streams.load(DatasetConfig(str(path), stream=settings), **options)


def read_all(part, epoch=0):
    return part.read(np.arange(len(part)), epoch)


def damage(folder, *names):
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-30])
