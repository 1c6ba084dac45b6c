"""The tables of results: runs what is missing, rewrites the tables in the README and the reports.

python -m experiments.results --list
python -m experiments.results --rows=softmax,mlp,best/mlp
python -m experiments.results --rows=softmax,mlp --check

Without --rows, everything that isn't finished and doesn't need a GPU is run: hours on a CPU. The
same command goes on where it stopped, and may run several times at once. Every run is an ordinary
run directory, WORKDIR/ROW/seed=N. A row of the table is replaced when all its seeds are finished;
the others stay as they were recorded, here or on another machine, or are marked as not run.
--check runs the rows too but writes nothing: it compares them with what is recorded.

Exit codes: 0, 1 a run failed or --check found a difference beyond the spread, 2 wrong input,
128 + n stopped by signal n.
"""

import contextlib
import fcntl
import importlib
import os
import pathlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags

from cnn_jax import config as config_lib
from cnn_jax import files, records, schema
from cnn_jax.config import Config
from cnn_jax.errors import ResultsError
from cnn_jax.options import suggest_name
from cnn_jax.reports import certificate, results, study, tables
from cnn_jax.reports.results import Row
from experiments import launch, trial_loop

ROWS = flags.DEFINE_list("rows", [], "Names of rows; 'best/' means all whose names begin so.")
WORKDIR = launch.define_path("workdir", "runs/results", "Where the runs are.")
OUTPUT = launch.define_path(
    "output", "experiments/reports/results.md", "How each row was run; the JSON is beside it."
)
TABLES = flags.DEFINE_string(
    "tables", "experiments/reports/README.md", "Holds the full tables; empty: nowhere."
)
README = flags.DEFINE_string("readme", "README.md", "Holds the short table; empty: nowhere.")
CHECK = flags.DEFINE_bool(
    "check", False, "Run the rows, compare with what is recorded; write no tables."
)
LIST = flags.DEFINE_bool("list", False, "Say which rows there are and which are run, and stop.")

START, END = "<!-- written by experiments.results -->", "<!-- end of what is written -->"
SEEDS = (0, 1, 2, 3, 4)
CERTIFICATES = launch.ROOT / "experiments/reports/certificates"
SAME, BEST, CIFAR = "same", "best", "cifar10"
HEADINGS = {
    SAME: "The same hyperparameters as the book and the study notes",
    BEST: "The best recipe with no more parameters and epochs",
    CIFAR: "CIFAR-10, from a copy whose pictures were once JPEGs",
}
NOTE = """\
Test accuracy after the last epoch, mean ± sample standard deviation over n seeds, on Fashion-MNIST
(60,000 training and 10,000 test images) unless said otherwise. Seconds per run and examples per
second are medians, of the training steps alone, on machines that had other work to do.

Published: the median over the builds of "Dive into Deep Learning" (PyTorch), or a single run of
study notes (n=1). The standard deviation of the builds is estimated from their range.

The best recipes' hyperparameters were chosen on a tenth of the training set, held out for that
purpose, or taken from another recipe without a test; [recipes.md](recipes.md) says which. There is
one exception: a test accuracy suggested not to mirror the perceptrons' images. Held-out images
confirmed it."""
SHORT_NOTE = """\
Test accuracy on Fashion-MNIST, unless another data set is named: published, here with the same
hyperparameters, and here with the best recipe for no more parameters and epochs; mean ± standard
deviation over five seeds."""


def load_config(file: str) -> Config:
    """Returns the configuration of 'experiments/configs/lenet.py:pool=max'."""
    path, _, options = file.partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    settings: Config = module.get_config(options)
    return settings


def make_row(name: str, section: str = SAME, file: str = "", **more: Any) -> Row:
    """Returns a row; its configuration is experiments/configs/NAME.py unless said otherwise."""
    file = f"experiments/configs/{file or name + '.py'}"
    return Row(name, section, file, load_config(file), **{"seeds": SEEDS, **more})


BOOK_JAX = "the book's JAX edition, the best of 5 builds"
BOOK_MXNET = "the book's MXNet edition, the best of its builds"
BOOK_TORCH = "the book's PyTorch edition, the best of 6 builds"
OLD_TORCH = "the book's older PyTorch port, Adam"
ADAM = "a LeNet with ReLU and batch normalization trained by Adam, one run"
CAFFE = "Caffe's quick network on the original pictures, 5000 iterations"
NOTES = "study notes, one run"
NETWORKS = ("softmax", "mlp", "mlp_dropout", "lenet", "lenet_max", "lenet_improved", "lenet_bn")
LARGE = (  # they need a GPU
    *("alexnet", "vgg", "nin", "googlenet"),
    *("resnet18_book", "densenet_book", "regnetx32_book"),
)
BEST_OF = (  # the network, the accuracy to reach, the highest published, whose that is
    ("softmax", 0.844, 0.8363, BOOK_JAX),
    ("mlp", 0.900, 0.8616, BOOK_JAX),
    ("mlp_dropout", 0.900, 0.8669, BOOK_TORCH),
    ("lenet", 0.880, 0.836, BOOK_MXNET),
    ("lenet_max", 0.895, 0.834, NOTES),
    ("lenet_bn", 0.920, 0.9091, ADAM),
    ("lenet_improved", 0.900, 0.825, NOTES),
    ("alexnet", 0.902, 0.902, OLD_TORCH),
    ("vgg", 0.930, 0.930, BOOK_MXNET),
    ("nin", 0.891, 0.891, BOOK_MXNET),
    ("googlenet", 0.908, 0.908, BOOK_MXNET),
)


def make_best_row(name: str, target: float, highest: float, source: str, **more: Any) -> Row:
    """Returns the row of a best recipe, whose configuration is in best/."""
    published = {"target": target, "highest": highest, "source": source}
    return make_row(f"best/{name}", **{"section": BEST, **published, **more})


def list_rows() -> tuple[Row, ...]:
    """Returns all rows, in the order of the table."""
    return (
        *(make_row(name, needs_gpu=name in LARGE) for name in (*NETWORKS, *LARGE)),
        *(make_best_row(*one, same_as=one[0], needs_gpu=one[0] in LARGE) for one in BEST_OF),
        make_row("cifar_quick", CIFAR),
        make_row("cifar_quick_relu", CIFAR, file="cifar_quick.py:activation=relu", seeds=(0, 1, 2)),
        make_best_row("cifar_quick", 0.78, 0.7533, CAFFE, section=CIFAR),
        make_row("resnet20", CIFAR, file="resnet.py", needs_gpu=True),
        make_row("wrn28_10", CIFAR, file="wide_resnet.py", seeds=(0, 1, 2), needs_gpu=True),
    )


def main() -> int:
    launch.check_report("output")
    output = pathlib.Path(OUTPUT.value)
    rows = list_rows()
    recorded = read_entries(output.with_suffix(".json"))
    if LIST.value:
        print(format_list(rows, recorded))
        return 0
    chosen = choose(rows, ROWS.value)
    if not CHECK.value:
        fill_documents([])  # one without a place for its table fails before the training
    directory = pathlib.Path(WORKDIR.value)
    code = trial_loop.run_study(study.make_trials(results.plan_study(chosen)), directory)
    new = {
        one.name: results.make_entry(one, runs, tables.count_run_parameters)
        for one in chosen
        if (runs := results.read_group(one, directory))
    }
    if CHECK.value:
        agree = [compare(found, recorded) for found in new.values()]
        return code or int(not all(agree) or len(new) < len(chosen))
    with locked(output.parent):
        # Another process may have written since.
        entries = results.merge_entries(rows, read_entries(output.with_suffix(".json")), new)
        records.write_json(output.with_suffix(".json"), {"rows": entries})
        files.write_text(output, document(entries))
        written = [str(output), str(output.with_suffix(".json"))]
        for path, text in fill_documents(entries).items():
            files.write_text(pathlib.Path(path), text)
            written.append(path)
    print(f"wrote {', '.join(written)}")
    return code


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Holds the table against other processes that write it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fill_documents(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Returns the documents that hold tables, by path, with the tables in their places.

    Raises:
      ResultsError: a document can't be read, or has no place for its table.
    """
    filled = {}
    for flag, write in ((README, summarize), (TABLES, write_tables)):
        if not flag.value:
            continue
        try:
            text = pathlib.Path(flag.value).read_text(encoding="utf-8")
        except OSError as error:
            raise ResultsError(
                f"--{flag.name}={flag.value} can't be read: {error.strerror}. Empty, "
                f"--{flag.name}= leaves it."
            ) from error
        filled[flag.value] = results.replace_between(text, START, END, write(entries))
    return filled


def choose(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Returns the rows of these names; without names all that can be run on this machine.

    Raises:
      ConfigError: there is no such row.
    """
    if not names:
        gpu = jax.default_backend() != "cpu"
        return [row for row in rows if gpu or not row.needs_gpu]
    chosen = []
    for name in names:
        group = name.endswith("/")
        fitting = [r for r in rows if r.name == name or (group and r.name.startswith(name))]
        if not fitting:
            near = suggest_name(name, [row.name for row in rows])
            raise config_lib.ConfigError(f"--rows={name} is not a row of the table{near}")
        chosen += [row for row in fitting if row not in chosen]
    return chosen


def read_entries(file: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the recorded entries; none if there is no such file yet.

    Raises:
      RunDirectoryError: the file can't be read.
    """
    if not file.exists():
        return []
    entries: list[dict[str, Any]] = schema.read_json(file, results.Results)["rows"]
    return entries


def compare(found: dict[str, Any], recorded: Sequence[dict[str, Any]]) -> bool:
    """Prints how a row's runs agree with those recorded; returns whether they do."""
    old = next((o for o in recorded if o["name"] == found["name"] and o["n"]), None)
    if old is None or old.get("recipe") != found["recipe"]:
        print(f"{found['name']}: nothing is recorded of this recipe to compare with")
        return False
    result = results.compare_entries(found, old)
    here, there = (tables.format_mean(statistics) for statistics in (result.here, result.recorded))
    verdict = "the same, seed by seed" if result.same else "within the spread"
    if not result.within:
        verdict = "NOT within the spread"
    print(
        f"{found['name']}: {here} (n={result.here.n}) here, {there} (n={result.recorded.n}) "
        f"recorded: {verdict}"
    )
    return result.within


def format_list(rows: Sequence[Row], recorded: Sequence[dict[str, Any]]) -> str:
    """Returns a line for each row."""
    runs = {found["name"]: found["n"] for found in recorded}
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        state = f"{runs[row.name]} runs recorded" if runs.get(row.name) else "not run"
        gpu = ", needs a GPU" if row.needs_gpu else ""
        lines.append(f"{row.name:{width}}  {row.config.epochs} epochs, {state}{gpu}")
    return "\n".join(lines)


def document(entries: Sequence[dict[str, Any]]) -> str:
    """Returns results.md: how each row was run, and where its highest published number is from."""
    lines = [
        "# How each result was made",
        "",
        "The command that trains each row of [the tables](README.md#results), and the machine and",
        "versions of the recorded runs. [results.json](results.json) has every single accuracy.",
        "A certificate is of a later run of seed 0, which on another processor may differ from the",
        "recorded one by rounding; `python -m experiments.reproduce FILE.json` runs it again.",
        "",
    ]
    for entry in entries:
        line = f"- {entry['name']}: `{entry['command']}`"
        if entry["n"]:
            commit = entry["versions"].get("commit", "unknown")
            line += f"; {entry['device']}, jax {entry['versions'].get('jax')}, commit {commit}"
        if entry["published_highest"]:
            line += (
                f"; highest published {entry['published_highest']}: "
                f"{entry['published_highest_source']}"
            )
        if (file := certificate_of(entry["name"])).exists():
            accuracy = certificate.read(file)[1]["metrics"][-1]["test_accuracy"]
            line += f"; [certificate]({file.relative_to(CERTIFICATES.parent)}) of {accuracy:.4f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def certificate_of(name: str) -> pathlib.Path:
    """Returns where the certificate of a row's run with seed 0 is, if there is one."""
    return CERTIFICATES / f"{name.replace('/', '_')}.json"


def write_tables(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the full tables of the rows that were run."""
    lines = [NOTE]
    for section, heading in HEADINGS.items():
        part = [entry for entry in entries if entry["section"] == section and entry["n"]]
        if part:
            lines += ["", f"### {heading}", "", results.make_table(part, "../../")]
            if section == SAME and (also := results.format_also_published(part)):
                lines += ["", also]
    for needs_gpu, why in ((False, "Not run yet"), (True, "Not run yet, as they need a GPU")):
        missing = [e["name"] for e in entries if not e["n"] and e["needs_gpu"] == needs_gpu]
        if missing:
            lines += ["", f"{why}: {', '.join(missing)}."]
    return "\n".join(lines)


def summarize(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the README's table, one row for each network, and what is not run yet."""
    parts = [results.make_short_table(entries), SHORT_NOTE]
    if waiting := results.format_waiting(entries):
        parts.append(textwrap.fill(waiting, 100, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join(parts)


if __name__ == "__main__":
    launch.run(main)
