"""The loop of a population, by a program that counts in place of a network's.

test_population.py compares the real programs with single runs.
"""

import dataclasses
import itertools
import signal
import types

import jax
import numpy as np
import pytest

from cnn_jax import config, epochs, records, steps, train
from cnn_jax.checkpoints import Checkpoints, Progress
from cnn_jax.config import ConfigError
from cnn_jax.errors import RunDirectoryBusyError
from cnn_jax.experiment import build, load_dataset
from cnn_jax.sweeps import driver, population, population_program, spaces, sweep_record
from tests.test_population import BASE, DIFFERENT, members, trial

COUNTED = config.Config(
    dataset=config.DatasetConfig(name="synthetic:size=8,train=60,test=32"),
    model=config.ModelConfig(name="softmax"),
    optimizer=config.OptimizerConfig(learning_rate=0.5, schedule="cosine"),
    records=config.RecordsConfig(tensorboard=False, figures=False, checkpoint_epochs=2),
    epochs=3,
    batch_size=16,  # 4 steps, the last of 12 examples
    eval_batch_size=32,
)
RATES = (0.5, 0.25)
TWO = members(
    *({"optimizer.learning_rate": r, "seed": s} for s, r in enumerate(RATES)), base=COUNTED
)
WILD = config.with_values(COUNTED, {"optimizer.learning_rate": 1e30, "seed": 9})


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(COUNTED.dataset)


class Counting:
    """Programs whose members lose their learning rate with every example."""

    def __init__(self, dataset, size):
        self.dataset, self.size = dataset, size
        self.compiled, self.calls, self.bad, self.test_loss = [], [], None, 0.25

    def compile(self, experiment, how, count):
        self.compiled.append((how, count))
        used = [self.train_steps, self.eval_steps, self.put_members, lambda tree: tree]
        return population_program.Program(*used, bytes=self.size(count))

    def put_members(self, trees):
        trees = [*trees, trees[-1]]  # filled up, as where members don't go into the devices
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    def init_states(self, experiments):
        count = len(experiments)
        keys, kernels = np.zeros((count, 2), np.uint32), {"w": np.zeros((count, 3), np.float32)}
        return steps.TrainState(np.zeros(count, np.int32), keys, kernels, {}, ())

    def train_steps(self, rates, states, totals, data, orders, start, stop):
        assert data.images is self.dataset.train_images
        assert data.labels is self.dataset.train_labels
        assert start.dtype == stop.dtype == np.int32
        self.calls.append((int(start), int(stop), len(states.step) - 1))
        rate, examples = rates["optimizer.learning_rate"], orders.weights[:, start:stop].sum((1, 2))
        seen = orders.indices[:, start:stop].sum((1, 2))[:, None].astype(np.float32)
        wild = (rate > 1) & (self.bad is not None) & (states.step + stop - start > (self.bad or 0))
        new = steps.Totals(
            {
                "loss": totals.sums["loss"] + np.where(wild, np.float32(np.inf), rate * examples),
                "accuracy": totals.sums["accuracy"] + (examples / 2).astype(np.int32),
            },
            totals.examples + examples,
            np.where(wild & (totals.bad_step < 0), np.int32(self.bad or 0), totals.bad_step),
        )
        params = {"w": states.params["w"] + seen}
        return states.replace(step=states.step + (stop - start), params=params), new

    def eval_steps(self, states, data, order):
        assert data.images is self.dataset.test_images
        assert data.labels is self.dataset.test_labels
        examples = np.full(len(states.step), order.weights.sum(), np.float32)
        sums = {"loss": self.test_loss * examples, "accuracy": states.step}
        return steps.Totals(sums, examples, 0 * states.step - 1)


class Shown(train.Display):
    """Keeps what it is told; sends SIGTERM at the n-th of a kind of event."""

    def __init__(self, signal_at=("", 0)):
        super().__init__()
        self.events, self.signal_at = [], signal_at

    def tell(self, *event):
        self.events.append(event)
        name, count = self.signal_at
        if event[0] == name and sum(e[0] == name for e in self.events) == count:
            signal.raise_signal(signal.SIGTERM)

    def start_epoch(self, *event):
        self.tell("start", *event)

    def steps(self, count, sums, seconds):
        loss, correct, examples = sums["loss"], sums["accuracy"], sums["examples"]
        self.tell("steps", count, loss / examples, correct / examples, examples / seconds)

    def evaluating(self):
        self.tell("evaluating")

    def end_epoch(self, *event):
        self.tell("end", *event)

    def close(self):
        self.tell("close")


@pytest.fixture
def counting(monkeypatch, dataset):
    """Replaces programs; every look at the clock finds it a quarter of a second later."""
    programs = Counting(dataset, lambda count: 1000.0 * count)
    monkeypatch.setattr(population_program, "compile_program", programs.compile)
    monkeypatch.setattr(population_program, "init_states", programs.init_states)
    ticks = itertools.count()
    clock = types.SimpleNamespace(
        perf_counter=lambda: next(ticks) / 4, monotonic=lambda: next(ticks)
    )
    monkeypatch.setattr(epochs, "time", clock)
    return programs


def run(path, dataset, settings=TWO, display=None, **options):
    paths = [path / str(i) for i in range(len(settings))]
    return population.train_population(settings, paths, display, dataset=dataset, **options)


def saved(path):
    return sorted(int(p.name) for p in (path / "checkpoints").iterdir() if p.name.isdigit())


def row(settings, epoch, seconds):
    """What the counting program's epoch, from 0, comes to."""
    rate = settings.optimizer.learning_rate
    step = 4 * (epoch + 1)
    now = build(config.resolve(settings), load_dataset(settings.dataset)).schedule(step - 1)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": float(now),
        "train_loss": rate,
        "train_accuracy": 0.5,
        "test_loss": 0.25,
        "test_accuracy": step / 32,
        "examples_per_second": 60 / seconds,
        "seconds": seconds,
    }


def test_rows_programs_and_what_is_shown(tmp_path, dataset, counting):
    display = Shown()
    results = run(tmp_path, dataset, display=display, how="vmap")
    assert counting.compiled == [("vmap", 2)]
    # A call takes a quarter of a second: half a second are twice the steps of the one before.
    calls = [(0, 1), (1, 3), (3, 4), (0, 2), (2, 4), (0, 4)]
    assert counting.calls == [(*call, 2) for call in calls]
    for i, settings in enumerate(TWO):
        expected = [row(settings, e, seconds / 2) for e, seconds in enumerate((0.75, 0.5, 0.25))]
        rows = records.read_metrics(tmp_path / str(i))
        assert rows == [pytest.approx(r) for r in expected]
        assert results[i] == population.Member(rows[-1], None)
        assert saved(tmp_path / str(i)) == [8, 12]  # every second epoch, and the last one
        environment = records.read_environment(tmp_path / str(i))
        assert environment["population"] == {"members": 2, "how": "vmap"}
        assert environment["data"]["image_shape"] == [8, 8, 1]
    with Checkpoints(tmp_path / "1" / "checkpoints") as checkpoints:
        like = jax.tree.map(lambda x: x[0], counting.init_states(TWO))
        state, progress = checkpoints.restore(like)
    own = build(config.resolve(TWO[1]), dataset)
    seen = sum(own.train_order(epoch).indices.sum() for epoch in range(3))
    assert state.params["w"].tolist() == [seen] * 3  # its own order of the data
    assert (progress.epoch, progress.position, progress.history) == (3, 0, rows)

    mean = pytest.approx((RATES[0] + RATES[1]) / 2)
    first, second, third = (display.events[i:j] for i, j in ((0, 6), (6, 11), (11, 15)))
    assert first[0] == ("start", 1, 3, 0, 4)
    assert first[1:4] == [
        ("steps", 1, mean, 0.5, 32 / 0.25),
        ("steps", 2, mean, 0.5, 96 / 0.5),
        ("steps", 1, mean, 0.5, 120 / 0.75),
    ]
    assert first[4] == ("evaluating",)
    kind, shown, epochs = first[5]
    assert (kind, epochs) == ("end", 3)
    rates = [row(settings, 0, 1)["learning_rate"] for settings in TWO]
    assert shown == pytest.approx(
        {
            **row(TWO[0], 0, 0.375),
            "seconds": 0.75,
            "train_loss": 0.375,
            "learning_rate": sum(rates) / 2,
        }
    )
    assert [second[0], third[0]] == [("start", 2, 3, 0, 4), ("start", 3, 3, 0, 4)]
    assert third[-1][1]["epoch"] == 3


@pytest.mark.parametrize(
    ("event", "step", "rows"),
    [
        (("steps", 1), 0, 0),  # within the first epoch: nothing to save
        (("steps", 4), 4, 1),
        (("steps", 3), 4, 1),  # at the end of an epoch, which is finished first
        (("end", 1), 4, 1),
        (("end", 2), 8, 2),
    ],
)
def test_an_interrupted_population_has_saved_the_epochs_that_are_finished(
    tmp_path, dataset, counting, event, step, rows
):
    display = Shown(event)
    with pytest.raises(train.Interrupted) as error:
        run(tmp_path, dataset, display=display)
    assert str(error.value) == f"interrupted by SIGTERM; saved at step {step}"
    assert error.value.signum == signal.SIGTERM
    assert display.events[-1] == ("close",)
    for i in range(2):
        assert len(records.read_metrics(tmp_path / str(i))) == rows
        assert saved(tmp_path / str(i))[-1:] == ([step] if step else [])
    results = run(tmp_path, dataset)
    assert [len(records.read_metrics(tmp_path / str(i))) for i in range(2)] == [3, 3]
    assert [result.row["step"] for result in results] == [12, 12]


@pytest.mark.parametrize("event", [("steps", 6), ("end", 3)])
def test_a_signal_when_all_is_done_interrupts_nothing(tmp_path, dataset, counting, event):
    results = run(tmp_path, dataset, display=Shown(event))
    assert [result.row["epoch"] for result in results] == [3, 3]


def test_members_at_the_same_epoch_go_on_together(tmp_path, dataset, counting):
    stopped = run(tmp_path, dataset, TWO[:1], until=1)
    assert stopped[0].row["epoch"] == 1
    assert saved(tmp_path / "0") == [4]
    counting.compiled.clear()
    counting.calls.clear()
    results = run(tmp_path, dataset, until=2)
    assert [result.row["epoch"] for result in results] == [2, 2]
    assert counting.compiled == [("map", 2), ("map", 1)]  # one for both is what may fit
    assert {count for _, _, count in counting.calls} == {1}
    counting.calls.clear()
    results = run(tmp_path, dataset, until=7)
    assert [result.row["epoch"] for result in results] == [3, 3]
    assert {count for _, _, count in counting.calls} == {2}
    counting.calls.clear()
    assert run(tmp_path, dataset) == results  # finished
    assert counting.calls == []
    counting.compiled.clear()
    assert run(tmp_path, dataset, TWO[:1]) == results[:1]
    assert counting.compiled == []  # nothing is compiled for it


def test_a_run_saved_within_an_epoch_is_for_itself(tmp_path, dataset, counting):
    like = jax.tree.map(lambda x: x[0], counting.init_states(TWO))
    with Checkpoints(tmp_path / "1" / "checkpoints") as checkpoints:
        checkpoints.save(
            like, Progress(0, 2, {"loss": 1.0, "accuracy": 1, "examples": 1.0}, 1.0, [])
        )
    records.write_json(tmp_path / "1" / "config.json", config.to_dict(config.resolve(TWO[1])))
    with pytest.raises(ConfigError) as error:
        run(tmp_path, dataset)
    assert str(error.value) == (
        f"{tmp_path / '1'} was saved within an epoch, by a run on its own; resume it alone, with "
        "experiments.train."
    )


@pytest.mark.parametrize(("bad", "epoch"), [(0, 1), (5, 2), (11, 3)])
def test_a_member_that_diverges_ends_with_its_step(tmp_path, dataset, counting, bad, epoch):
    counting.bad, display = bad, Shown()
    fine, lost = run(tmp_path, dataset, [TWO[0], WILD], display)
    assert (fine.row["epoch"], fine.error) == (3, None)
    assert lost == population.Member(
        None,
        f"the loss was not finite in step {bad} (epoch {epoch}); what was saved before is kept in "
        f"{tmp_path / '1'}.",
    )
    assert len(records.read_metrics(tmp_path / "1")) == epoch - 1
    ends = [event[1]["train_loss"] for event in display.events if event[0] == "end"]
    assert ends[epoch - 1 :] == [pytest.approx(0.5)] * (4 - epoch)  # the mean of those left
    assert all(np.isfinite(event[2]) for event in display.events if event[0] == "steps")


def test_when_all_members_have_diverged_nothing_goes_on(tmp_path, dataset, counting):
    counting.bad, display = 1, Shown()
    (lost,) = run(tmp_path, dataset, [WILD], display)
    assert "in step 1 (epoch 1)" in lost.error
    assert [call[:2] for call in counting.calls] == [(0, 1), (1, 3), (3, 4)]
    assert [event[0] for event in display.events] == ["start", "steps", "evaluating"]


def test_a_loss_that_is_not_finite_in_the_evaluation_ends_a_member(tmp_path, dataset, counting):
    counting.test_loss = np.float32(np.nan)
    for lost in run(tmp_path, dataset):
        assert "the loss was not finite in step 4 (epoch 1)" in lost.error


@pytest.mark.parametrize(
    ("seconds", "count"), [(float("inf"), 1), (1.0, 1), (0.1, 5), (1e-3, 500), (1e-30, 2**30)]
)
def test_a_call_takes_about_half_a_second(seconds, count):
    pace = epochs.Pace()
    pace._seconds_per_step = seconds
    assert pace.steps_per_call() == count


def test_what_is_shown_is_of_members_that_have_seen_examples_and_are_finite():
    group = types.SimpleNamespace(runs=[None] * 3, display=Shown())
    totals = [
        steps.Totals({"loss": np.float32(loss), "accuracy": np.int32(1)}, np.float32(n), -1)
        for loss, n in ((2, 1), (np.inf, 1), (0, 0))
    ]
    population._Group._show(group, 1, totals, 0.5)
    assert group.display.events == [("steps", 1, 2.0, 1.0, 2.0)]


def test_members_that_do_not_fit_are_trained_part_by_part(tmp_path, dataset, counting, monkeypatch):
    three = [config.with_values(COUNTED, {"seed": seed}) for seed in range(3)]
    monkeypatch.setattr(population, "free_memory", lambda: 2500.0)
    counting.size = lambda count: 1000.0 * count if count > 2 else 2500.0
    results = run(tmp_path, dataset, three, memory=None)
    environments = [records.read_environment(tmp_path / str(i)) for i in range(3)]
    assert [e["population"] for e in environments] == [
        {"members": n, "how": "map"} for n in (2, 2, 1)
    ]
    assert [result.row["step"] for result in results] == [12] * 3
    assert counting.compiled == [("map", 3), ("map", 2), ("map", 1)]


@pytest.mark.parametrize(
    ("memory", "expected"), [(1060, 10), (1059, 9), (350, 2), (360, 3), (160, 1), (1, 1)]
)
def test_as_many_members_as_fit_beside_the_data(dataset, counting, memory, expected):
    shared = sum(array.nbytes for array in dataset[:4])
    counting.size = lambda count: shared + 100.0 * count + 60
    programs = population._Programs(build(config.resolve(COUNTED), dataset), "auto")
    assert programs.how == population_program.choose_mapping()
    assert programs.fitting(10, shared + memory) == expected


def test_members_and_directories_are_checked(tmp_path, dataset):
    with pytest.raises(ConfigError, match=r"^how='vmapp' is unknown; did you mean vmap\?"):
        run(tmp_path, dataset, how="vmapp")
    for settings, paths in ((TWO, ["0"]), ([], [])):
        with pytest.raises(ConfigError) as error:
            population.train_population(settings, paths, dataset=dataset)
        assert str(error.value) == (
            f"a population needs a directory for each member; there are {len(settings)} members "
            f"and {len(paths)} directories."
        )
    with pytest.raises(ConfigError, match="batch_size"):
        run(tmp_path, dataset, [config.with_values(COUNTED, {"batch_size": 0})])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batch_size": 32}, "differ in config.batch_size, which the program is compiled for"),
        ({"optimizer.momentum": 0.0}, "differ in config.optimizer.momentum"),
        ({"model.dropout": (0.0, 0.2)}, "differ in config.model.dropout"),
        ({"model.hidden": (8, 8)}, "differ in config.model.hidden"),
        ({"parallel": "jit"}, "a population runs on one device"),
        ({"reduction": "ordered"}, "the members of a population are summed plainly"),
    ],
)
def test_what_cannot_share_a_program_is_refused(tmp_path, change, expected):
    with pytest.raises(config.ConfigError, match=expected):
        population.train_population(members({}, change), [tmp_path / "0", tmp_path / "1"])
    assert not list(tmp_path.iterdir())


def test_rates_and_seeds_and_what_changes_no_result_share_a_program():
    key = population.program_key(BASE)
    assert all(population.program_key(member) == key for member in members(*DIFFERENT))
    free = dataclasses.replace(BASE, records=config.RecordsConfig(figures=True))
    assert population.program_key(free) == key


def test_trials_that_share_a_program_are_grouped():
    trials = [
        trial(**{"seed": seed, "optimizer.momentum": momentum})
        for momentum in (0.0, 0.5, 0.9)
        for seed in (0, 1)
    ]
    groups = population.group_alike(3)(trials)
    assert [[t.values["optimizer.momentum"] for t in group] for group in groups] == [
        [0.0, 0.0],
        [0.5, 0.5, 0.9],
        [0.9],
    ]


def two_trials():
    return [spaces.Trial(f"seed={i}", {"seed": i}, settings) for i, settings in enumerate(TWO)]


@pytest.fixture
def together(tmp_path, monkeypatch, dataset):
    """An attempt at trials, what `train_population` was called with, and what it does."""
    made = types.SimpleNamespace(calls=[], displays=[], result=None, trials=two_trials())

    def train_population(*arguments, **options):
        made.calls.append((*arguments, options))
        if isinstance(made.result, BaseException):
            raise made.result
        return made.result

    def make_display(trials):
        made.displays.append((Shown(), [trial.name for trial in trials]))
        return made.displays[-1][0]

    def train_alone(directory, make_display, stop):
        def attempt(trials):
            make_display(trials)
            return [("alone", directory, stop({"epoch": 2}), stop({"epoch": 1}), *trials)]

        return attempt

    monkeypatch.setattr(population, "train_population", train_population)
    monkeypatch.setattr(driver, "train_alone", train_alone)
    ticks = itertools.count(step=3)
    monkeypatch.setattr(population, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    made.attempt = population.train_together(tmp_path, make_display, until=2)
    return made


def test_outcomes_of_trials_trained_together(tmp_path, together):
    first, second = together.trials
    for name in ("seed=0", "seed=1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "error.json").write_text("{}")
    together.result = [population.Member({"epoch": 2}, None), population.Member(None, "lost")]
    outcomes = together.attempt(together.trials)
    assert outcomes == [
        driver.Outcome(first, {"epoch": 2}, None, 1.5),
        driver.Outcome(second, None, "lost", 1.5, diverged=True),
    ]
    assert not (tmp_path / "seed=0" / "error.json").exists()
    assert sweep_record.read_error(tmp_path / "seed=1")["kind"] == "DivergedError"
    ((display, names),) = together.displays
    assert names == ["seed=0", "seed=1"]
    assert display.events == [("close",)]
    ((configs, paths, shown, options),) = together.calls
    assert configs == TWO
    assert paths == [tmp_path / "seed=0", tmp_path / "seed=1"]
    assert shown is display
    assert options.keys() == {"until", "dataset"}
    assert options["until"] == 2
    assert len(options["dataset"].train_labels) == 60


def test_trials_that_cannot_be_trained_together(tmp_path, together):
    trials = together.trials
    together.result = RunDirectoryBusyError("another process")
    assert together.attempt(trials) == [None, None]
    together.result = OSError("no")
    assert together.attempt(trials) == [("alone", tmp_path, True, False, *trials)]
    assert [names for _, names in together.displays] == [[t.name for t in trials]] * 3
    together.result = train.Interrupted(signal.SIGTERM, 4)
    with pytest.raises(train.Interrupted):
        together.attempt(trials)
    assert together.displays[-1][0].events == [("close",)]
    calls = len(together.calls)
    assert together.attempt(trials[:1]) == [("alone", tmp_path, True, False, trials[0])]
    assert len(together.calls) == calls
