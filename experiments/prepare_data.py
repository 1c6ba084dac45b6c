"""Fetches data sets, checks them, and keeps them decoded for training; or makes records of one.

    python -m experiments.prepare_data fashion_mnist [mnist cifar10 …] [--data_dir=DIR]
    python -m experiments.prepare_data PATH --output=DIR [--format=raw] [--size=256] [--jobs=8]

What is there already is only checked. Otherwise TensorFlow Datasets downloads the original files
and prepares them (without TensorFlow). Where that host cannot be reached, Fashion-MNIST comes from
Debian's package dataset-fashion-mnist, unpacked without root. The archives of cifar100, kmnist and
emnist (whose six splits share one: emnist is the balanced one, emnist_letters the letters …) are
downloaded from their authors and kept as they are, when their checksums are right.

With --output, pictures become records that are read as they are needed. PATH holds class folders,
tars (also tars in tars, as ImageNet's two, in one folder), ArrayRecord files or a set prepared by
TFDS; or it is the name of a set that is there. The same command goes on where it was stopped.
"""

import contextlib
import hashlib
import http.client
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from absl import flags

from cnn_jax import data, files, text
from cnn_jax.data import archives, mini, tfds
from cnn_jax.data.streams import prepare as records
from cnn_jax.data.streams.progress import Progress
from cnn_jax.data.streams.records import FORMATS
from experiments import launch

_DATA_DIR = launch.define_path("data_dir", data.DEFAULT_DATA_DIR, "Where data sets are kept.")
_SOURCE = flags.DEFINE_enum(
    "source",
    "auto",
    ["auto", "tfds", "debian"],
    "Where to fetch from: TFDS's download, Debian's package, or the first of them that works.",
)
_WRITE_MINI = launch.define_path(
    "write_mini", None, "Also write the slice fashion_mnist_mini to this file, made from the whole."
)
_OUTPUT = launch.define_path("output", None, "Make records in this folder.")
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    FORMATS,
    "Of records: pictures as they are (jpeg), JPEGs with a short side of --size, or the pixels of "
    "squares of --size; the second if only --size is given, else the first.",
)
_SIZE = flags.DEFINE_integer("size", 0, "The pixels of the side, for records.", 0, 4096)
_JOBS = flags.DEFINE_integer("jobs", 1, "How many files of records are made at a time.", 1, 1024)
_SKIP_DAMAGED = flags.DEFINE_bool("skip_damaged", False, "Leave damaged pictures out of records.")

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"
PROBE_SECONDS = 5.0
TIMEOUT_SECONDS = 30.0  # without a byte


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether `url` answers within `seconds`, all told.

    TFDS itself retries for minutes without a network. The thread bounds the look-up of the host's
    name too, to which no timeout of the socket applies; the request honors the proxy settings.
    """
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with (
            contextlib.suppress(OSError, ValueError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=seconds) as answer,
        ):
            answers.append(answer.status == 200)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


def _run(command: list[str], folder: Path) -> None:
    """Runs a command in `folder`.

    Raises:
      DataError: when it is missing or fails, with the last line that it wrote.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise data.DataError(f"{command[0]} did not run ({error}).") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = (lines or done.stderr.splitlines() or ["no message"])[0]
        raise data.DataError(f"`{' '.join(command[:2])}` failed ({reason.strip()}).")


def fetch_debian(destination: Path, root: Path = Path("/")) -> str:
    """Copies Fashion-MNIST's files from Debian's package to `destination`.

    The package is taken from the system when it is installed, or else downloaded by apt, which
    checks its signature, and unpacked in a temporary folder. Nothing needs root.

    Args:
      destination: the folder for the four files.
      root: of the installed system.

    Returns:
      Where the files came from.

    Raises:
      DataError: when apt is missing or cannot get the package.
    """
    with tempfile.TemporaryDirectory() as created:
        temporary = Path(created)
        source, origin = root / DEBIAN_FOLDER, f"the installed package {DEBIAN_PACKAGE}"
        if not source.is_dir():
            missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
            if missing:
                raise data.DataError(f"{missing[0]} is not on this machine.")
            _download_package(temporary)
            package = next(temporary.glob("*.deb"), None)
            if package is None:
                raise data.DataError(f"apt-get left no package {DEBIAN_PACKAGE}.")
            _run(["dpkg", "--extract", str(package), "unpacked"], temporary)
            source = temporary / "unpacked" / DEBIAN_FOLDER
            origin = f"Debian's package {package.name}"
        destination.mkdir(parents=True, exist_ok=True)
        for payload in archives.IDX_FILES:
            file = f"{payload}.gz"
            if not (source / file).is_file():
                raise data.DataError(f"{origin} has no {file}.")
            with (
                files.open_regular(source / file) as original,
                files.replacing(destination / file) as copy,
            ):
                shutil.copyfileobj(original, copy)
        return origin


def _download_package(folder: Path) -> None:
    """Downloads the package file to `folder`, with package lists of its own where none are kept."""
    try:
        _run(["apt-get", "download", DEBIAN_PACKAGE], folder)
    except data.DataError:
        lists, cache = folder / "lists", folder / "cache"
        for empty in (lists / "partial", cache / "archives" / "partial"):
            empty.mkdir(parents=True)
        private = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"]
        _run(["apt-get", "update", *private], folder)
        _run(["apt-get", "download", *private, DEBIAN_PACKAGE], folder)


def fetch_originals(name: str, data_dir: Path) -> None:
    """Downloads the archives of a set from where its authors publish them, and checks them.

    Raises:
      DataError: one can't be had, or isn't what it should be; then nothing is kept of it.
    """
    info = data.DATASETS[name]
    folder = data_dir / info.folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    for url in info.urls:
        file = folder / url.rpartition("/")[2]
        if not file.exists():
            print(f"fetching {url}", flush=True)
            _download(url, file, info.packed[file.name])


def _download(url: str, file: Path, digest: str) -> None:
    """Downloads a file with a known SHA-256."""
    found, count = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
            files.replacing(file) as copy,
        ):
            while piece := answer.read(1 << 20):
                count += len(piece)
                if count > archives.MAX_BYTES:
                    raise data.DataError(f"{url} answers with more bytes than the set has.")
                found.update(piece)
                copy.write(piece)
            if found.hexdigest() != digest:
                raise data.DataError(
                    f"{url} answered with {count:,} bytes that are not the original file (the "
                    "checksum differs); try again later."
                )
    except data.DataError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise data.DataError(f"{url} cannot be fetched ({text.one_line(str(error))}).") from error


def prepare(name: str, data_dir: Path, source: str = "auto") -> data.Dataset:
    """Makes `data.load(name, data_dir)` work, fetching what is missing.

    Raises:
      DataError: when what is there is damaged, or nothing can be fetched.
    """
    try:
        return data.load(name, data_dir)
    except data.DataNotFoundError as error:
        if name not in data.DATASETS:
            raise
        print(f"{error}".partition(";")[0] + "; fetching it", flush=True)
    info = data.DATASETS[name]
    failures = []
    if source == "auto" and info.urls:
        try:
            fetch_originals(name, data_dir)
        except data.DataError as error:
            failures.append(str(error).rstrip("."))
        else:
            return data.load(name, data_dir)
    if source in ("auto", "tfds") and name in tfds.CLASSES:
        url = tfds.url(name)
        if reachable(url):
            if not sys.stderr.isatty():
                import tensorflow_datasets

                tensorflow_datasets.disable_progress_bar()
            tfds.prepare(name, data_dir, info.class_names)
            return data.load(name, data_dir)
        failures.append(f"{url} cannot be reached")
        print(failures[-1], flush=True)
    if source in ("auto", "debian") and name == "fashion_mnist":
        try:
            print(f"copied from {fetch_debian(data_dir / name)}", flush=True)
            return data.load(name, data_dir)
        except data.DataError as error:
            failures.append(f"Debian's package: {error}".rstrip("."))
    if source == "debian" and name != "fashion_mnist":
        failures.append("Debian packages only fashion_mnist")
    if source == "tfds" and name not in tfds.CLASSES:
        failures.append(f"TFDS is used for {', '.join(tfds.CLASSES)} only")
    raise data.DataError(
        f"{name} could not be fetched ({'; '.join(failures)}); put {info.format.files} into "
        f"{data_dir / info.folders[0]} and run this again."
    )


def make_records(name: str, output: Path, data_dir: Path) -> None:
    """Makes records of the data set `name`, as the flags say."""
    start = time.perf_counter()
    parts = records.open_input(name, output, data_dir)
    with Progress() as progress:
        about = records.prepare(
            parts,
            output,
            _FORMAT.value,
            _SIZE.value,
            jobs=_JOBS.value,
            skip_damaged=_SKIP_DAMAGED.value,
            report=progress.show,
        )
    print(f"{output}: {records.describe(about)} in {time.perf_counter() - start:.1f} s", flush=True)


def main(*names: str) -> int:
    """Prepares the data sets of these names, Fashion-MNIST if none is given; or makes records."""
    folder = Path(_DATA_DIR.value)
    if _OUTPUT.value is not None:
        if len(names) != 1:
            raise data.DataError("--output takes records of one data set; name one.")
        make_records(names[0], Path(_OUTPUT.value), folder)
        return 0
    asked = {"format": _FORMAT.value, "size": _SIZE.value, "skip_damaged": _SKIP_DAMAGED.value}
    if alone := next((name for name, value in asked.items() if value), None):
        raise data.DataError(f"--{alone} is for records; give their folder too, --output=DIR.")
    for name in names or ("fashion_mnist",):
        start = time.perf_counter()
        dataset = prepare(name, folder, _SOURCE.value)
        print(
            f"{name}: {len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test "
            f"images, {len(dataset.class_names)} classes ({dataset.provenance}) in "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
    if _WRITE_MINI.value:
        mini.write_mini(data.load("fashion_mnist", folder), _WRITE_MINI.value)
    return 0


if __name__ == "__main__":
    launch.run(main, "[NAME…]")
