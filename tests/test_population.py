"""Runs trained together as one program: what each would be alone."""

import signal

import flax
import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, programs, records, train
from cnn_jax.display import Silent
from cnn_jax.experiment import build, load_dataset
from cnn_jax.sweeps import driver, population, population_program, spaces, sweep_record

TIMES = ("seconds", "examples_per_second")
BASE = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=300),
    model=config.ModelConfig(
        name="mlp", hidden=(16, 8), dropout=(0.2, 0.0), kernel_init="he_normal"
    ),
    optimizer=config.OptimizerConfig(
        learning_rate=0.1, momentum=0.9, weight_decay=1e-3, schedule="cosine", ema_decay=0.8
    ),
    augment=config.AugmentConfig(flip=True),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    label_smoothing=0.1,
    epochs=2,
    batch_size=64,
)
DIFFERENT = [
    {"seed": 0},
    {"seed": 1, "model.dropout": (0.5, 0.0), "optimizer.momentum": 0.5},
    {
        "seed": 1,
        "optimizer.learning_rate": 0.03,
        "optimizer.weight_decay": 0.1,
        "optimizer.ema_decay": 0.5,
        "label_smoothing": 0.3,
    },
]


def members(*changes, base=BASE):
    return [config.with_values(base, values) for values in changes]


def outcome(run):
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in records.read_metrics(run)]
    arrays = flax.traverse_util.flatten_dict(checkpoints.restore_variables(run))
    return rows, arrays


def assert_same(run, other, rtol=1e-4, atol=1e-5):
    (rows, arrays), (other_rows, other_arrays) = outcome(run), outcome(other)
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        assert set(row) == set(other_row)
        for name in row:
            assert row[name] == pytest.approx(other_row[name], rel=1e-3), name
    assert set(arrays) == set(other_arrays)
    for name in arrays:
        np.testing.assert_allclose(arrays[name], other_arrays[name], rtol, atol)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each member trained by itself."""
    path = tmp_path_factory.mktemp("alone")
    for i, settings in enumerate(members(*DIFFERENT)):
        train.train_and_evaluate(settings, path / str(i), Silent())
    return path


def test_members_start_as_they_would_alone():
    """Orthogonal weights too, whose decompositions once waited for each other forever."""
    base = config.with_values(BASE, {"model.kernel_init": "orthogonal", "model.hidden": (256, 256)})
    first = build(base, load_dataset(base.dataset))
    seeds = [{"seed": seed} for seed in range(8)]
    states = population_program.init_states(
        [first._replace(config=settings) for settings in members(*seeds, base=base)]
    )
    for seed in (0, 7):
        own = first.init_state(np.uint32(seed))
        jax.tree.map(lambda x, y, seed=seed: np.testing.assert_array_equal(x[seed], y), states, own)


@pytest.mark.parametrize("how", [pytest.param("vmap", marks=pytest.mark.slow), "map"])
def test_each_member_is_what_it_is_alone(alone, tmp_path, how):
    paths = [tmp_path / str(i) for i in range(3)]
    results = population.train_population(members(*DIFFERENT), paths, how=how)
    for i, result in enumerate(results):
        assert result.error is None
        assert result.row == records.read_metrics(paths[i])[-1]
        assert_same(paths[i], alone / str(i))
        assert records.read_config(paths[i]) == records.read_config(alone / str(i))
        environment = records.read_environment(paths[i])
        assert environment["population"] == {"members": 3, "how": how}
        assert environment["data"] == records.read_environment(alone / str(i))["data"]
    kernels = [outcome(path)[1]["params", "Dense_0", "kernel"] for path in paths]
    for i in range(2):  # they are indeed different runs
        assert np.abs(kernels[i] - kernels[i + 1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["map", "vmap"])
def test_convolutions_and_batch_norm(tmp_path, how):
    base = config.Config(
        dataset=config.DatasetConfig(name="synthetic:size=12,channels=3,train=64,test=32"),
        model=config.ModelConfig(
            name="lenet_bn", channels=(4,), kernel_sizes=(3,), paddings=(1,), hidden=(8,)
        ),
        optimizer=config.OptimizerConfig(learning_rate=0.1),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=24,  # the last batch is padded
        eval_batch_size=32,
    )
    both = members({"seed": 3}, {"seed": 4, "optimizer.learning_rate": 0.5}, base=base)
    population.train_population(both, [tmp_path / "0", tmp_path / "1"], how=how)
    train.train_and_evaluate(both[1], tmp_path / "alone", Silent())
    assert_same(tmp_path / "1", tmp_path / "alone")
    assert outcome(tmp_path / "0")[0] != outcome(tmp_path / "1")[0]


def test_members_that_do_not_fit_into_memory_are_trained_in_parts(tmp_path, monkeypatch):
    base = config.Config(
        dataset=config.DatasetConfig(name="synthetic:size=8,train=64,test=32"),
        model=config.ModelConfig(name="softmax"),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=32,
    )
    compile_program = population_program.compile_program
    sizes = {}

    def compile_two_at_most(experiment, how, count):
        if count == 3:
            return population_program.Program(None, None, None, None, bytes=3e9)
        sizes[count] = compile_program(experiment, how, count)
        return sizes[count]

    monkeypatch.setattr(population_program, "compile_program", compile_two_at_most)
    paths = [tmp_path / str(i) for i in range(3)]
    seeds = members(*({"seed": seed} for seed in range(3)), base=base)
    results = population.train_population(seeds, paths, how="vmap", memory=2.5e9)
    together = [records.read_environment(path)["population"]["members"] for path in paths]
    assert together == [2, 2, 1]
    assert [result.row["epoch"] for result in results] == [1, 1, 1]
    data_bytes = 96 * (8 * 8 + 4)
    assert data_bytes < sizes[1].bytes < sizes[2].bytes < 2 * sizes[1].bytes  # they share the data
    assert programs.free_memory() > sizes[2].bytes


@pytest.mark.slow
def test_a_population_stops_early_and_goes_on(alone, tmp_path):
    paths = [tmp_path / str(i) for i in range(2)]
    first = population.train_population(members(*DIFFERENT[:2]), paths, until=1)
    assert [result.row["epoch"] for result in first] == [1, 1]
    population.train_population(members(*DIFFERENT[:2]), paths)
    for i in range(2):
        assert_same(paths[i], alone / str(i))


def test_a_member_that_diverges_ends_and_the_others_go_on(alone, tmp_path):
    wild = {"seed": 5, "optimizer.learning_rate": 1e30}
    paths = [tmp_path / name for name in ("fine", "wild")]
    with jax.debug_nans(False):
        fine, lost = population.train_population(members(DIFFERENT[0], wild), paths)
    assert fine.error is None
    assert_same(paths[0], alone / "0")
    assert lost.row is None
    assert lost.error.startswith("the loss was not finite in step 1 (epoch 1); what was saved")
    assert records.read_metrics(paths[1]) == []


class Stop(Silent):
    """Asks to stop at the end of the first epoch."""

    def end_epoch(self, row, epochs):
        signal.raise_signal(signal.SIGTERM)


def test_an_interrupted_population_goes_on_together_or_alone(alone, tmp_path):
    paths = [tmp_path / str(i) for i in range(3)]
    with pytest.raises(train.Interrupted, match="interrupted by SIGTERM; saved at step 5"):
        population.train_population(members(*DIFFERENT), paths, Stop())
    assert [len(records.read_metrics(path)) for path in paths] == [1] * 3
    train.train_and_evaluate(members(DIFFERENT[1])[0], paths[1], Silent())
    before = (paths[1] / "metrics.jsonl").read_bytes()
    results = population.train_population(members(*DIFFERENT), paths)
    assert [result.row["epoch"] for result in results] == [2] * 3
    for i, path in enumerate(paths):
        assert_same(path, alone / str(i))
    assert (paths[1] / "metrics.jsonl").read_bytes() == before  # it was finished


def trial(**values):
    return spaces.Trial(spaces.name_trial(values), values, config.with_values(BASE, values))


def test_a_sweep_by_populations_is_the_sweep(alone, tmp_path):
    trials = [trial(**DIFFERENT[i]) for i in (0, 1)]
    other = config.with_values(BASE, {"optimizer.schedule": "constant"})
    spoiled = trial(seed=7)  # its directory holds another run
    with records.RunDirectory(tmp_path / spoiled.name, config.resolve(other)) as run:
        run.append_metrics(dict.fromkeys(records.Row.__annotations__, 1))
    trials.append(trial(**{"seed": 0, "dataset.train_examples": 20}))  # smaller than a batch

    def sweep():
        attempt = population.train_together(tmp_path, lambda trials: Silent())
        return list(driver.run_trials(trials, tmp_path, attempt, population.group_alike(8)))

    trials.insert(1, spoiled)
    outcomes = {o.trial.name: o for o in sweep()}
    first, bad, second, wrong = (outcomes[t.name] for t in trials)
    assert "holds a run with another configuration" in bad.error
    for outcome, name in ((first, "0"), (second, "1")):
        assert outcome.error is None
        assert outcome.seconds > 0
        assert_same(tmp_path / outcome.trial.name, alone / name)
    assert "batch_size=64 is larger than the training set of 20" in wrong.error
    assert sweep_record.read_error(tmp_path / wrong.trial.name)["kind"] == "ConfigError"
    again = sweep()
    finished = {o.trial.name for o in again if o.seconds is None}
    assert finished == {first.trial.name, second.trial.name}
