"""Makes prepared records of any source: in parallel, resumable, verified.

Each file of records is written at once, with a piece of the index beside it; after a kill, the
pieces that are there and of the same examples aren't made again. `records.json`, written last,
makes the records valid.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import catalog as data_catalog
from cnn_jax.data.streams import catalog, in_memory, records
from cnn_jax.data.streams.pieces import (
    Count,
    DamagedError,
    Piece,
    Plan,
    Report,
    list_starts,
    load_piece,
)
from cnn_jax.data.streams.records import ABOUT, VERSION, About, Format, Part, Shard
from cnn_jax.data.streams.source import Parts, Source, show
from cnn_jax.errors import DataError

MAX_SIZE = 4096
_SHOWN = 5  # damaged files that are named in a sentence
_LEFTOVER = re.compile(r"\.[a-z]+-\d{5,}\.(tar|raw|npz)\.[0-9a-f]{16}\.new")


def open_input(name: str, output: Path, data_dir: Path) -> Parts:
    """Opens what records are to be made of: a path of streams.SOURCES, or a data set by its name.

    Raises:
      DataError: there is no such thing, it can't be read, or `output` is within it.
    """
    path = Path(name).expanduser()
    if path.exists() or "/" in name:
        if output.resolve().is_relative_to(path.resolve()):
            raise DataError(
                f"--output={show(output)} is within {show(path)}, which is read; choose a folder "
                "elsewhere."
            )
        return catalog.open_parts(path)
    return in_memory.as_parts(data_catalog.load(name, data_dir))


def prepare(
    parts: Parts,
    output: Path,
    form: str | None = None,
    size: int = 0,
    *,
    jobs: int = 1,
    skip_damaged: bool = False,
    report: Report = lambda done, total: None,
) -> About:
    """Makes records of the parts of a data set in the folder `output`, and verifies them.

    If they are there already they are verified only. Every picture is decoded once, to find
    damaged ones.

    Args:
      parts: the data set.
      output: the folder, made if need be.
      form: one of records.FORMATS; None is 'jpeg_short_side' with a size, else 'jpeg'.
      size: of the short side or of the square; 0 for 'jpeg'.
      jobs: how many files are made at a time.
      skip_damaged: leave out damaged pictures.
      report: told how many examples are done.

    Raises:
      DataError: pictures are damaged, `output` holds other records, or these aren't as written.
      RunDirectoryError: the system refused to write.
    """
    plan = Plan(parts, output, _choose_format(form, size), size, skip_damaged)
    sources = {"train": parts.train, **({} if parts.test is None else {"test": parts.test})}
    files.make_folder(output)
    with _locked(output):
        whole = [plan.identity(source, 0, len(source)) for source in sources.values()]
        identity = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
        if (output / ABOUT).exists():
            about = records.read_about(output)
            if about["identity"] != identity or (about["skipped"] and not skip_damaged):
                raise DataError(
                    f"{show(output)} holds the records of other pictures, or in another form; "
                    "choose another --output, or delete it."
                )
        else:
            for entry in output.iterdir():
                if _LEFTOVER.fullmatch(entry.name):
                    entry.unlink()
            about = _make(plan, sources, identity, jobs, report)
        verify(output, about, jobs)
        files.write_text(output / ABOUT, json.dumps(about, indent=1))
        for entry in list(records.list_pieces(output)):
            entry.unlink()
    return about


def _choose_format(form: str | None, size: int) -> Format:
    """The form of the records; raises DataError if there is no such form, or none of this size."""
    asked = form or ("jpeg_short_side" if size else "jpeg")
    chosen = next((known for known in records.FORMATS if known == asked), None)
    if chosen is None:
        raise DataError(f"format={show(asked)} must be one of {', '.join(records.FORMATS)}.")
    if chosen == "jpeg" and size:
        raise DataError(
            f"format=jpeg keeps pictures as they are, and takes no size={size}; choose "
            "jpeg_short_side or raw."
        )
    if chosen != "jpeg" and not 1 <= size <= MAX_SIZE:
        raise DataError(
            f"format={chosen} needs the pixels of the side, size=1 to {MAX_SIZE}, for example 256."
        )
    return chosen


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from preparing records in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(
            f"another process prepares records in {show(folder)}; wait for it, or choose another "
            "--output."
        ) from error
    finally:
        os.close(descriptor)


def _make(
    plan: Plan, sources: dict[str, Source], identity: str, jobs: int, report: Report
) -> About:
    """Makes what isn't there yet, and returns what records.json is to say."""
    total = sum(map(len, sources.values()))
    count = Count(total, report)
    pieces: dict[str, list[Piece]] = {}
    damaged: list[str] = []
    with ThreadPoolExecutor(jobs, "prepare") as pool:
        making = {
            name: [
                pool.submit(load_piece, plan, name, source, start, count)
                for start in list_starts(source)
            ]
            for name, source in sources.items()
        }
        try:
            for name, begun in making.items():
                for future in begun:
                    try:
                        pieces.setdefault(name, []).append(future.result())
                    except DamagedError as error:
                        damaged += error.names
        except BaseException:
            count.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if damaged:
        raise DataError(
            f"{len(damaged):,} of the {total:,} pictures can't be read "
            f"({text.list_some(damaged, _SHOWN)}); replace them, or leave them out with "
            "--skip_damaged; the others are kept, so that the same command goes on from here."
        )
    return {
        "version": VERSION,
        "format": plan.format,
        "size": plan.size,
        "class_names": list(plan.parts.class_names),
        "parts": {name: _join(plan, name, listed) for name, listed in pieces.items()},
        "source": plan.parts.origin,
        "identity": identity,
        "skipped": [name for listed in pieces.values() for p in listed for name in p.damaged],
    }


def _join(plan: Plan, name: str, pieces: list[Piece]) -> Part:
    """Writes the index of a part."""
    rows = []
    for number, piece in enumerate(pieces):
        own = piece.rows.copy()
        own["file"] = number
        rows.append(own)
    index = np.concatenate(rows)
    if not len(index):
        raise DataError(f"no picture of the part {name} can be read; check its files.")
    stream = io.BytesIO()
    np.save(stream, index)
    content = stream.getvalue()
    files.write_bytes(records.index_file(plan.output, name), content)
    return {
        "shards": [piece.shard for piece in pieces],
        "index_sha256": hashlib.sha256(content).hexdigest(),
    }


def verify(output: Path, about: About, jobs: int = 1) -> None:
    """Reads all files of records, and compares them with what was written.

    Raises:
      DataError: one isn't as it was written.
    """

    def check(shard: Shard) -> None:
        file = output / Path(shard["file"]).name
        digest = hashlib.sha256()
        try:
            with files.open_regular(file) as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            raise DataError(f"{show(file)} can't be read: {files.say_reason(error)}.") from error
        if digest.hexdigest() != shard["sha256"]:
            raise DataError(
                f"{show(file)} isn't as it was written; the disk may be damaged. Delete it and, if "
                f"it is there, {ABOUT}, and run the same command again."
            )

    shards = [shard for part in about["parts"].values() for shard in part["shards"]]
    with ThreadPoolExecutor(jobs, "verify") as pool:
        list(pool.map(check, shards))


def describe(about: About) -> str:
    """Returns in one line what records there are."""
    counts = [
        f"{sum(shard['examples'] for shard in part['shards']):,} {name}"
        for name, part in about["parts"].items()
    ]
    size = sum(shard["bytes"] for part in about["parts"].values() for shard in part["shards"])
    form = f"{about['format']} {about['size']}" if about["size"] else about["format"]
    line = f"{form} records of {' and '.join(counts)} images, {len(about['class_names'])} classes"
    line += f", {size / 2**20:,.1f} MiB, verified"
    if skipped := about["skipped"]:
        line += f"; {len(skipped):,} damaged left out ({text.list_some(skipped, _SHOWN)})"
    return line
