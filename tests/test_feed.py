"""Training and evaluation on data that are brought to the devices chunk by chunk."""

import atexit
import collections
import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, data, epochs, feed, hashes, programs, records, train
from cnn_jax.display import Display, Silent
from cnn_jax.errors import ConfigError, DataError, PictureError
from cnn_jax.experiment import build, load_dataset
from cnn_jax.figures import run_figures
from cnn_jax.inspection import trained_network
from cnn_jax.sweeps import population
from tests import test_distributed

ROOT = pathlib.Path(__file__).parent.parent
BASE = config.Config(
    dataset=config.DatasetConfig(
        name="synthetic:size=12,classes=4,train=100,test=50",
        normalization="standardize",
        feed="stream",
    ),
    augment=config.AugmentConfig(pad=1, flip=True),
    model=config.ModelConfig(name="mlp", hidden=(16,), dropout=(0.3,)),
    optimizer=config.OptimizerConfig(learning_rate=0.1, momentum=0.9),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=16,  # 7 steps, the last of 4 examples
    eval_batch_size=12,  # 5 steps, the last of 2 examples
)
LENET = {"model": config.ModelConfig("lenet"), "batch_size": 32}


class Read:
    """A part in memory that counts what is read, waits and fails as it is told."""

    def __init__(self, images, labels, wait=lambda index: None):
        self.images, self.labels, self.wait, self.seen = images, labels, wait, []

    @property
    def image_shape(self):
        return self.images.shape[1:]

    def __len__(self):
        return len(self.labels)

    def read(self, indices, epoch):
        self.wait(indices[0])
        self.seen += [(epoch, int(index)) for index in indices]
        return self.images[indices]


def in_files(dataset, wait=lambda index: None):
    parts = Read(*dataset[:2], wait), Read(*dataset[2:4], wait)
    return data.StreamedDataset(
        *parts, dataset.class_names, "made", dataset.fingerprint or "0" * 64
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three steps of training in a chunk, four of evaluation."""
    monkeypatch.setattr(feed, "CHUNK_IMAGES", 48)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(BASE.dataset)


def outcome(run):
    times = ("seconds", "examples_per_second")
    rows = [{k: v for k, v in r.items() if k not in times} for r in records.read_metrics(run)]
    tree = checkpoints.restore_variables(run, evaluated=False)
    return rows, jax.tree.map(lambda x: np.asarray(x).tobytes(), tree), hashes.read(run)


def run(workdir, settings=BASE, display=None, **more):
    train.train_and_evaluate(settings, workdir, display or Silent(), **more)
    return outcome(workdir)


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    kept = config.with_values(BASE, {"dataset.feed": "memory"})
    return run(tmp_path_factory.mktemp("resident") / "run", kept)


def compute(settings, streamed, dataset=None):
    """The digest of the state and of all totals after training and evaluating two epochs."""
    ready = build(config.resolve(settings), dataset or load_dataset(settings.dataset))
    program, count = ready.program, ready.steps_per_epoch
    state = program.put_state(program.get(program.put_state(ready.init_state())))
    train_feed, test_feed = feed.make_feeds(ready, streamed)
    with contextlib.closing(train_feed), contextlib.closing(test_feed):
        for epoch in range(2):
            totals = program.put_state(ready.start_totals())
            for bounds in ((0, 2), (2, count)):
                chunks = train_feed.chunks(epoch, *bounds)
                state, totals = feed.take_steps(program.train_steps, state, totals, chunks)
            test = test_feed.evaluate(state)
        leaves = jax.tree.leaves(program.get((state, totals, test)))
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()


def test_a_streamed_run_has_the_bits_and_records_of_a_resident_one(resident, tmp_path):
    assert run(tmp_path) == resident


@pytest.mark.parametrize(
    "changes",
    [
        LENET,
        pytest.param(
            {"parallel": "pmap", "drop_last": True, "augment": config.AugmentConfig()},
            marks=pytest.mark.slow,
        ),
        pytest.param({**LENET, "model": config.ModelConfig("lenet_bn")}, marks=pytest.mark.slow),
        pytest.param(
            {
                **LENET,
                "model": config.ModelConfig("cifar_quick"),
                "augment": config.AugmentConfig(mixup=0.2, crop_area=0.5, brightness=0.2),
                "label_smoothing": 0.1,
                "test_flip": True,
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["lenet", "replicas", "batch normalization", "mixed and cropped"],
)
def test_streamed_steps_have_the_bits_of_resident_ones(changes):
    settings = dataclasses.replace(BASE, **changes)
    if settings.model.name != "mlp":
        name = "synthetic:size=28,classes=4,train=100,test=50"
        settings = config.with_values(settings, {"dataset.name": name})
    assert compute(settings, streamed=True) == compute(settings, streamed=False)


class Stopping(Silent):
    """Sends a signal once some steps are done."""

    def __init__(self, signum, after):
        super().__init__()
        self.signum, self.after = signum, after

    def steps(self, count, sums, seconds):
        self.after -= count
        if self.after == 0:
            signal.raise_signal(self.signum)


def threads_of_feeds():
    return [t.name for t in threading.enumerate() if t.name.startswith("feed")]


@pytest.mark.parametrize(
    ("signum", "after", "then"),
    [(signal.SIGTERM, 4, "stream"), (signal.SIGINT, 9, "memory")],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_run_stopped_within_an_epoch_is_saved_and_goes_on_to_the_same_bits(
    resident, tmp_path, monkeypatch, signum, after, then
):
    monkeypatch.setattr(epochs, "SECONDS_PER_CALL", 0)  # one step in each
    with pytest.raises(epochs.Interrupted, match=f"saved at step {after}$"):
        run(tmp_path, display=Stopping(signum, after))
    assert threads_of_feeds() == []
    assert checkpoints.find_newest(tmp_path) == after
    assert run(tmp_path, config.with_values(BASE, {"dataset.feed": then})) == resident
    assert threads_of_feeds() == []


def test_a_resumed_run_reads_nothing_that_it_has_seen(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(epochs, "SECONDS_PER_CALL", 0)
    with pytest.raises(epochs.Interrupted):
        run(tmp_path, display=Stopping(signal.SIGTERM, 11), dataset=in_files(dataset))
    streamed = in_files(dataset)
    run(tmp_path, dataset=streamed)
    order = data.epoch_order(0, 1, 100)
    trained = [index for epoch, index in streamed.train.seen if epoch == 1]
    padding = [0]  # the last batch is filled up with the first example
    assert sorted(trained) == sorted([*order[4 * 16 :].tolist(), *padding])
    assert all(epoch in (None, 1) for epoch, _ in streamed.train.seen)  # None: for statistics


def make_feed(part, program, order, threads=None, **changes):
    values = {"zeros": None, "epochs": 2, **changes}
    return feed.StreamedFeed(part, order, program, threads=threads, **values)


def make_program():
    return programs.make_program(lambda reduce: None, lambda reduce: None)


@pytest.mark.parametrize("threads", [1, 7])
def test_the_order_does_not_depend_on_the_threads_or_their_pace(dataset, threads):
    pace = np.random.default_rng(threads)
    part = Read(*dataset[:2], lambda index: time.sleep(pace.uniform(0, 1e-3)))

    def order(epoch):
        return programs.Order(*data.batches(data.epoch_order(5, epoch, 100), 16, False))

    with contextlib.closing(make_feed(part, make_program(), order, threads)) as streamed:
        for epoch in (0, 1):
            position = 0
            indices, weights = order(epoch)
            for chunk in streamed.chunks(epoch, 0, 7):
                for step in range(chunk.start, chunk.stop):
                    wanted = indices[position]
                    np.testing.assert_array_equal(chunk.data.images[step], part.images[wanted])
                    np.testing.assert_array_equal(chunk.data.labels[step], part.labels[wanted])
                    np.testing.assert_array_equal(chunk.order.weights[step], weights[position])
                    position += 1
            assert position == 7
    counts = collections.Counter(part.seen)
    padding = {(0, 0): 2, (1, 0): 2}
    assert counts == {(e, i): 1 for e in (0, 1) for i in range(100)} | padding


def test_a_chunk_is_a_function_of_the_position_alone(dataset):
    part = Read(*dataset[:2])

    def order(epoch):
        return programs.Order(*data.batches(data.epoch_order(5, epoch, 100), 16, False))

    def images_of(streamed, epoch, step):
        chunks = streamed.chunks(epoch, step, step + 1)
        return [np.array(chunk.data.images[chunk.start]) for chunk in chunks]

    with contextlib.closing(make_feed(part, make_program(), order)) as streamed:
        for epoch, step in ((1, 6), (0, 5), (1, 0), (0, 0), (0, 1), (0, 6)):
            (images,) = images_of(streamed, epoch, step)
            np.testing.assert_array_equal(images, part.images[order(epoch).indices[step]])
        (none,) = streamed.chunks(0, 4, 4)
        assert none.start == none.stop


@pytest.mark.parametrize("threads", [1, 3])
def test_a_feed_that_is_closed_while_it_reads_ahead_ends_its_threads(dataset, threads):
    part = Read(*dataset[:2], lambda index: time.sleep(0.01))

    def order(epoch):
        return programs.Order(*data.batches(data.epoch_order(5, epoch, 100), 16, False))

    streamed = make_feed(part, make_program(), order, threads)
    next(streamed.chunks(0, 0, 7))
    assert threads_of_feeds()
    streamed.close()
    assert threads_of_feeds() == []
    assert len(part.seen) < 3 * 48  # what wasn't begun was left


@pytest.mark.parametrize("size", [1, 12, 64])
def test_an_evaluation_counts_every_example_once(dataset, size):
    settings = dataclasses.replace(BASE, eval_batch_size=size)
    ready = build(config.resolve(settings), in_files(dataset))
    for streamed in feed.make_feeds(ready, True)[1:]:
        with contextlib.closing(streamed):
            totals = ready.program.get(streamed.evaluate(ready.init_state()))
    assert totals.examples == 50
    assert sorted({index for _, index in ready.dataset.test.seen}) == list(range(50))


def test_no_more_chunks_are_alive_than_are_allowed(dataset, tmp_path, monkeypatch):
    alive, most = [], []

    def spy(ready_program):
        def put_chunk(*arguments):
            examples, order = ready_program.put_chunk(*arguments)
            alive.append(examples.images)
            most.append(sum(not images.is_deleted() for images in alive))
            return examples, order

        return ready_program._replace(put_chunk=put_chunk)

    program = spy(make_program())
    order = programs.Order(*data.batches(np.arange(100, dtype=np.int32), 4, False))
    part = Read(*dataset[:2])
    monkeypatch.setattr(feed, "CHUNK_IMAGES", 4)
    with contextlib.closing(make_feed(part, program, lambda epoch: order)) as streamed:
        for epoch in range(2):
            for chunk in streamed.chunks(epoch, 0, 25):
                np.asarray(chunk.data.images)
                time.sleep(1e-3)  # what reads has time to go too far
    assert len(alive) == 50
    assert max(most) == feed.AHEAD + 1
    assert all(images.is_deleted() for images in alive)


def test_a_chunk_is_bounded_in_bytes_and_images_and_has_a_batch_at_least(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(feed, "CHUNK_IMAGES", 50)
    assert feed.steps_per_chunk(100, 2, (10, 10, 1)) == 5
    assert feed.steps_per_chunk(100, 10, (2, 2, 1)) == 5
    assert feed.steps_per_chunk(3, 10, (2, 2, 1)) == 3
    assert feed.steps_per_chunk(100, 64, (10, 10, 1)) == 1
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert feed.steps_per_chunk(100, 2, (10, 10, 1)) == 10


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            OSError(5, "Input/output error"), DataError,
            r"training images can't be read, among them numbers [^:]+: OSError: \[Errno 5\] "
            r"Input/output error\. Mend that and give the same command again; it goes on from the "
            r"newest checkpoint\.",
        ),
        pytest.param(
            PictureError("cat/1.jpg is damaged; delete it."), PictureError,
            r"cat/1\.jpg is damaged; delete it\.",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_a_reader_raises_reaches_the_loop_as_a_sentence(dataset, tmp_path, error, kind, said):
    first = data.epoch_order(0, 1, 100)[0]

    def fail(index):
        if index == first and failing:
            raise error

    failing, streamed = [True], in_files(dataset, fail)
    with pytest.raises(kind, match=f"^{said}$"):
        run(tmp_path, dataset=streamed)
    assert threads_of_feeds() == []
    failing.clear()
    run(tmp_path, dataset=streamed)


@pytest.mark.parametrize("spoil", [lambda x: x.astype(np.float32), lambda x: x[:, :-1]])
def test_images_of_another_shape_or_type_are_one_sentence(dataset, tmp_path, spoil):
    streamed = in_files(dataset)
    read = streamed.test.read
    streamed.test.read = lambda indices, epoch: spoil(read(indices, epoch))
    with pytest.raises(DataError, match=r"^test images must be read as uint8 \[\d+, 12, 12, 1\], "):
        run(tmp_path, dataset=streamed)


def test_auto_streams_what_does_not_fit_and_says_so(dataset, resident, tmp_path, monkeypatch):
    assert [feed.explain_streaming(asked, dataset) for asked in ("auto", "memory")] == [None, None]
    assert "ahead of the steps" in feed.explain_streaming("stream", dataset)
    assert feed.explain_streaming("auto", in_files(dataset)) == "read from files ahead of the steps"
    with pytest.raises(ConfigError, match="read from its files as it is needed; choose stream or"):
        feed.explain_streaming("memory", in_files(dataset))
    monkeypatch.setattr(programs, "free_memory", lambda: 150 * 12 * 12 - 1)
    said = io.StringIO()
    automatic = config.with_values(BASE, {"dataset.feed": "auto"})
    assert run(tmp_path, automatic, Display(said)) == resident
    (line,) = [line for line in said.getvalue().splitlines() if line.startswith("feed ")]
    assert line.split(None, 1)[1] == (
        "brought to the devices ahead of the steps, as 0.0 GiB of images are more than the 0.0 GiB "
        "that are free on each"
    )


def test_a_population_says_that_it_needs_data_in_memory(dataset, tmp_path):
    for settings, given in ((BASE, dataset), (config.Config(), in_files(dataset))):
        with pytest.raises(ConfigError, match="so the data set must be in memory, with"):
            population.train_population([settings], [tmp_path], dataset=given)


def test_a_run_on_files_has_its_figures_and_predictions(dataset, tmp_path, monkeypatch):
    streamed = in_files(dataset)
    run(tmp_path, dataset=streamed)
    network = trained_network.load(tmp_path)
    monkeypatch.setattr(trained_network, "BATCH", 16)
    expected = network.probabilities(dataset.test_images)
    np.testing.assert_array_equal(network.probabilities(streamed.test), expected)
    monkeypatch.setattr(trained_network, "load_dataset", lambda settings, keep: streamed)
    own = run_figures.Evaluated(tmp_path)
    chosen = run_figures.choose_images(own)
    assert [image.image.shape for image in chosen] == [(12, 12, 1)] * 2
    assert own.title.endswith(f"{(expected.argmax(1) == dataset.test_labels).mean():.4f}")


def digests_with(devices):
    """Those of resident and streamed training, summed plainly and in order, in a process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "NPROC": "4", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-m", "tests.test_feed"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split() for line in found.stdout.splitlines())


@pytest.mark.slow
def test_one_and_four_devices_stream_the_same_bits():
    one, four = digests_with(1), digests_with(4)
    assert len(one) == 11
    kinds = [kind.removesuffix("-memory") for kind in one if kind.endswith("-memory")]
    for found, kind in itertools.product((one, four), kinds):
        assert found[f"{kind}-stream"] == found[f"{kind}-memory"]
    for norm in ("batch", "ghost:8"):
        assert one[f"ordered-{norm}-stream"] == four[f"ordered-{norm}-stream"]
    # Groups of images on one device aren't waited for; one sum more is of the running averages.
    none, ghosts, batch = (int(four[f"sums-{norm}"]) for norm in ("none", "ghost:8", "batch"))
    assert 0 < none <= ghosts <= none + 1 < batch
    assert one["sums-batch"] == "0"


@pytest.mark.slow
def test_two_processes_read_only_their_own_rows_and_go_on_within_an_epoch_to_the_same_bits(
    tmp_path,
):
    common = ["--config.reduction=ordered", "--config.threads=4", "--config.epochs=2"]
    common += ["--config.records.figures=false", "--config.records.tensorboard=false"]
    common += ["--config.records.checkpoint_seconds=0"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    alone = test_distributed.start(whole, 1, *common)
    assert alone.wait() == 0, alone.out.read_text()
    common.append("--config.dataset.feed=stream")
    for process in (two := test_distributed.start_two(moved, *common, module="tests.test_feed")):
        test_distributed.wait_for_checkpoint(moved, two)
        process.kill()
        process.wait()
    counts = []
    for process in test_distributed.start_two(moved, *common, module="tests.test_feed"):
        assert process.wait(300) == 0, process.out.read_text()
        text = process.out.read_text()
        counts.append(int(re.search(r"^read (\d+) images$", text, re.MULTILINE)[1]))
    assert outcome(moved) == outcome(whole)
    seen = 2 * (2000 + 1000)  # images in two epochs, some of them before the processes were killed
    assert abs(counts[0] - counts[1]) < 0.1 * seen
    assert max(counts) < 0.6 * seen


def count_sums(settings):
    """How often the devices add up something in a step."""
    ready = build(config.resolve(settings), load_dataset(settings.dataset))
    program = ready.program
    state = program.put_state(jax.device_get(ready.init_state()))
    data, order = program.put_data(ready.train_data), program.put_order(ready.train_order(0))
    lowered = program.train_steps.lower(
        state, program.put_state(ready.start_totals()), data, order, 0, 1
    )
    return len(re.findall(r" all-reduce\(", lowered.compile().as_text()))


def train_and_count():
    """Is experiments.train with little chunks, and says at the end how many images it has read."""
    count = [0]
    read = data.ArrayStream.read

    def read_and_count(self, indices, epoch):
        count[0] += len(indices)
        return read(self, indices, epoch)

    data.ArrayStream.read = read_and_count
    atexit.register(lambda: print(f"read {count[0]} images", flush=True))
    sys.argv = ["train", *sys.argv[1:]]
    runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    feed.CHUNK_IMAGES = 48
    if len(sys.argv) > 1:
        train_and_count()
    for kind, norm in itertools.product(("plain", "ordered"), ("batch", "ghost:8")):
        values = {"parallel": "jit", "reduction": kind, "reduction_groups": 4, "batch_size": 32}
        own = config.with_values(BASE, {**values, "eval_batch_size": 16, "model.norm": norm})
        for streamed in (False, True):
            print(f"{kind}-{norm}-{'stream' if streamed else 'memory'}", compute(own, streamed))
    for norm in ("none", "batch", "ghost:8"):
        print(
            f"sums-{norm}",
            count_sums(config.with_values(own, {"model.norm": norm, "reduction": "plain"})),
        )
