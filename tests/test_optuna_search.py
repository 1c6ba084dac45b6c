"""Searches: Optuna proposes, runs are trained, stopped, resumed and told."""

import json
import time
import types

import optuna
import pytest
from absl import flags
from absl.testing import flagsaver

from cnn_jax import config, data, errors, identity, records, train
from cnn_jax.display import Silent
from cnn_jax.errors import SearchError
from cnn_jax.sweeps import driver, optuna_journal, optuna_search, optuna_study, spaces
from tests import commands

BASE = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=200, holdout=0.5),
    model=config.ModelConfig(name="softmax"),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=50,
)
RATES = optuna_search.Space(spaces.parse_sample(["optimizer.learning_rate=log:1e-3,1"]))


def silent(trials):
    return Silent()


def study_in(path, **options):
    return optuna_study.open_study("test", str(path / "optuna.log"), **options)


def run(study, directory, trials, space=RATES, base=BASE, together=1):
    return list(optuna_search.search(study, space, base, trials, directory, silent, together))


def test_the_space_is_optunas_and_back():
    space = optuna_search.Space(
        spaces.parse_sample(
            [
                "optimizer.learning_rate=log:1e-3,1",
                "optimizer.momentum=uniform:0,0.9",
                "epochs=uniform:1,3",
                "model.hidden=choice:(32,),(64,32)",
                "model.norm=choice:None,batch",
            ]
        )
    )
    of = optuna.distributions
    assert space.distributions() == {
        "optimizer.learning_rate": of.FloatDistribution(1e-3, 1.0, log=True),
        "optimizer.momentum": of.FloatDistribution(0.0, 0.9),
        "epochs": of.IntDistribution(1, 3),
        "model.hidden": of.CategoricalDistribution(("(32,)", "(64,32)")),
        "model.norm": of.CategoricalDistribution(("None", "batch")),
    }
    values = dict(zip(space.samples, (0.0123456, 0.5, 2, "(64,32)", "None"), strict=True))
    trial = space.trial(BASE, values)
    assert trial.values == dict(zip(space.samples, (0.01235, 0.5, 2, (64, 32), None), strict=True))
    assert (trial.config.epochs, trial.config.model.hidden) == (2, (64, 32))


@pytest.mark.parametrize("together", [1, 3])
def test_a_search_trains_what_is_proposed_and_goes_on(tmp_path, together):
    pairs = run(study_in(tmp_path), tmp_path, 3, together=together)
    assert [frozen.number for frozen, _ in pairs] == [0, 1, 2]
    for frozen, outcome in pairs:
        assert frozen.state == optuna.trial.TrialState.COMPLETE
        assert (
            frozen.value == records.read_metrics(tmp_path / outcome.trial.name)[-1]["test_accuracy"]
        )
    more = run(study_in(tmp_path), tmp_path, 4, together=together)
    assert [frozen.number for frozen, _ in more] == [3]
    assert run(study_in(tmp_path), tmp_path, 4) == []
    names = {outcome.trial.name for _, outcome in (*pairs, *more)}
    assert len(names) == 4


def test_what_was_left_behind_is_taken_over_unless_another_process_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "WAIT_SECONDS", 0.01)
    study = study_in(tmp_path)
    left = study.ask(RATES.distributions())  # by a process that was killed
    held = study.ask(RATES.distributions())
    trial = RATES.trial(BASE, held.params)
    lock = records.RunDirectory(tmp_path / trial.name, config.resolve(trial.config))
    lock.__enter__()
    found = []
    for frozen, outcome in optuna_search.search(study, RATES, BASE, 2, tmp_path, silent):
        found.append(frozen.number)
        if frozen.number == left.number:
            assert outcome.row["epoch"] == 2
            lock.__exit__()
    assert found == [left.number, held.number]
    states = {t.state for t in study.get_trials()}
    assert states == {optuna.trial.TrialState.COMPLETE}


@pytest.mark.slow
def test_new_trials_are_asked_for_while_another_process_trains_its_own(tmp_path):
    study = study_in(tmp_path)
    held = study.ask(RATES.distributions())
    trial = RATES.trial(BASE, held.params)
    with records.RunDirectory(tmp_path / trial.name, config.resolve(trial.config)):
        found = optuna_search.search(study, RATES, BASE, 3, tmp_path, silent)
        numbers = [next(found)[0].number, next(found)[0].number]
    assert numbers == [1, 2]
    assert [frozen.number for frozen, _ in found] == [0]


def test_a_study_keeps_to_its_search(tmp_path):
    run(study_in(tmp_path), tmp_path, 1)
    other = optuna_search.Space(spaces.parse_sample(["optimizer.learning_rate=log:1e-3,2"]))
    with pytest.raises(SearchError, match=r"is another search's: there optimizer\.learning"):
        run(study_in(tmp_path), tmp_path, 2, other)
    base = config.with_values(BASE, {"batch_size": 25})
    with pytest.raises(SearchError, match="there batch_size is 50, here 25"):
        run(study_in(tmp_path), tmp_path, 2, base=base)


def test_an_option_younger_than_a_study_had_its_default_there(tmp_path):
    study = study_in(tmp_path)
    run(study, tmp_path, 1)
    noted = study.user_attrs["experiment"]
    study.set_user_attr("experiment", {p: v for p, v in noted.items() if p != "optimizer.name"})
    run(study_in(tmp_path), tmp_path, 2)
    older = {p: v for p, v in noted.items() if p not in ("optimizer.name", "batch_size")}
    study.set_user_attr("experiment", older)
    with pytest.raises(SearchError, match="there batch_size is 256, here 50"):
        run(study_in(tmp_path), tmp_path, 2)


def test_a_trial_is_pruned_by_what_others_reached(tmp_path):
    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    study = study_in(tmp_path)
    study.pruner = Pruner()
    (first, whole), (second, stopped) = run(study, tmp_path, 2)
    assert first.state == optuna.trial.TrialState.COMPLETE
    assert set(first.intermediate_values) == {1}
    assert second.state == optuna.trial.TrialState.PRUNED
    assert (whole.row["epoch"], stopped.row["epoch"]) == (2, 1)
    with pytest.raises(config.ConfigError, match="none of them can be pruned"):
        run(study, tmp_path, 3, together=2)


def fail(error):
    def train_and_evaluate(settings, workdir, display=None, stop=None, dataset=None):
        raise error

    return train_and_evaluate


def test_one_that_diverges_is_told_as_bad_and_never_ranked(tmp_path, monkeypatch):
    own = train.train_and_evaluate
    monkeypatch.setattr(train, "train_and_evaluate", fail(train.DivergedError("not finite")))
    study = study_in(tmp_path)
    pairs = run(study, tmp_path, 2)
    assert [(f.value, o.error) for f, o in pairs] == [(0.0, "not finite")] * 2
    assert [frozen.user_attrs for frozen, _ in pairs] == [{"diverged": True}] * 2
    assert optuna_search.rank(study, RATES, BASE, tmp_path) == []
    monkeypatch.setattr(train, "train_and_evaluate", own)
    ((frozen, outcome),) = run(study, tmp_path, 3)
    ((best, trial),) = optuna_search.rank(study, RATES, BASE, tmp_path)
    assert (best.number, best.value, trial.name) == (2, frozen.value, outcome.trial.name)
    assert best.value > 0


def test_one_that_an_earlier_version_told_to_have_diverged_is_not_ranked(tmp_path):
    study = study_in(tmp_path)
    old = study.ask(RATES.distributions())
    study.tell(old, 0.0)
    trial = RATES.trial(BASE, old.params)
    driver.record_failure(trial, tmp_path / trial.name, train.DivergedError("not finite"), 1.0)
    study.tell(study.ask(RATES.distributions()), 0.0)  # an accuracy of 0 is possible
    assert [frozen.number for frozen, _ in optuna_search.rank(study, RATES, BASE, tmp_path)] == [1]


def test_one_that_cannot_work_fails(tmp_path):
    space = optuna_search.Space(spaces.parse_sample(["batch_size=choice:0"]))
    study = optuna_study.open_study("other", str(tmp_path / "optuna.log"))
    ((frozen, outcome),) = run(study, tmp_path, 1, space)
    assert frozen.state == optuna.trial.TrialState.FAIL
    assert "batch_size" in outcome.error
    assert optuna_search.rank(study, space, BASE, tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        records.RunDirectoryError("No space left on device"),
        errors.CheckpointError("No space left on device"),
        errors.DataError("No space left on device"),
    ],
)
def test_what_is_wrong_with_the_machine_ends_the_search_and_costs_no_trial(
    tmp_path, monkeypatch, error
):
    study, own = study_in(tmp_path), train.train_and_evaluate
    monkeypatch.setattr(train, "train_and_evaluate", fail(error))
    with pytest.raises(SearchError, match=r"trial 1 can't be trained: .*No space left"):
        run(study, tmp_path, 2)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    if isinstance(error, OSError):
        monkeypatch.setattr(train, "train_and_evaluate", own)
        ((frozen, _),) = run(study, tmp_path, 1)
        assert (frozen.number, frozen.state.name) == (0, "COMPLETE")


def test_a_study_that_breaks_while_a_run_asks_it_ends_the_search(tmp_path, monkeypatch):
    study = study_in(tmp_path, pruner="median")

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    def report(*arguments):
        monkeypatch.setattr(optuna_journal, "_write", refuse)

    monkeypatch.setattr(driver, "load_trial_data", report)
    monkeypatch.setattr(
        train,
        "train_and_evaluate",
        lambda settings, path, display, stop, data: stop({"epoch": 1, "test_accuracy": 0.5}),
    )
    with pytest.raises(SearchError, match="can't be written: No space left on device"):
        run(study, tmp_path, 1)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    assert not list(tmp_path.glob("*/error.json"))


def test_a_study_keeps_to_its_data(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    run(study, tmp_path, 1)
    digest = study.user_attrs["experiment"]["data"]["fashion_mnist_mini"]
    own = data.load("fashion_mnist_mini")
    assert digest == identity.identify_data(own).arrays
    other = own._replace(train_images=255 - own.train_images, fingerprint="")
    monkeypatch.setattr(data, "load", lambda name, folder=None, keep=True: other)
    with pytest.raises(SearchError, match=f"of other data: .* had the SHA-256 {digest}…"):
        run(study_in(tmp_path), tmp_path, 2)
    # What an earlier version began says nothing of its data; it is taken over.
    old = dict(study.user_attrs["experiment"])
    del old["data"]
    study.set_user_attr("experiment", old)
    assert run(study, tmp_path, 1) == []
    assert study.user_attrs["experiment"]["data"] != {"fashion_mnist_mini": digest}


def test_data_that_change_during_a_search_end_it(tmp_path, monkeypatch):
    found = optuna_search.search(study_in(tmp_path), RATES, BASE, 3, tmp_path, silent)
    next(found)
    own = data.load("fashion_mnist_mini")
    other = own._replace(train_images=255 - own.train_images, fingerprint="")
    monkeypatch.setattr(data, "load", lambda name, folder=None, keep=True: other)
    with pytest.raises(SearchError, match="has changed since the other trials began"):
        next(found)


def test_a_study_that_says_nonsense_of_itself_is_refused(tmp_path):
    study = study_in(tmp_path)
    for nonsense in ([], "x", {"data": 3}, {"data": {"fashion_mnist_mini": 3}}):
        study.set_user_attr("experiment", nonsense)
        if nonsense:
            with pytest.raises(SearchError, match="doesn't say what it searches"):
                run(study, tmp_path, 1)


@pytest.mark.parametrize("start", ["2020-01-01T00:00:00+00:00", "2090-01-01T00:00:00+00:00"])
def test_a_trial_that_nobody_goes_on_asking_for_fails_whatever_clocks_say(
    tmp_path, monkeypatch, start
):
    monkeypatch.setattr(driver, "WAIT_SECONDS", 0.02)
    monkeypatch.setattr(optuna_search, "ASK_SECONDS", 0.2)
    study_in(tmp_path)
    line = {"op_code": 4, "worker_id": "another", "study_id": 0, "datetime_start": start}
    with (tmp_path / "optuna.log").open("a") as file:
        file.write(json.dumps(line) + "\n")
    said = []
    study = study_in(tmp_path)
    begin = time.monotonic()
    found = list(optuna_search.search(study, RATES, BASE, 1, tmp_path, silent, say=said.append))
    assert time.monotonic() - begin >= 0.2
    assert found == []
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert said == ["waiting for other processes that have trials of this study: 1"]


def test_a_trial_with_values_that_are_not_searched_is_one_sentence(tmp_path):
    of = optuna.distributions
    for distribution in (of.FloatDistribution(2, 3), of.CategoricalDistribution(["x"])):
        study = optuna_study.open_study(str(distribution), str(tmp_path / "optuna.log"))
        study.ask({"optimizer.learning_rate": distribution})
        with pytest.raises(SearchError, match=r"isn't in what is searched, log:0\.001,1\.0"):
            run(study, tmp_path, 1)


# The command


@pytest.fixture
def command(monkeypatch, tmp_path):
    """experiments.search, with its flags set; no trial can be trained."""
    module = commands.load("search")
    monkeypatch.setattr(train, "train_and_evaluate", fail(train.DivergedError("not finite")))

    def call(**options):
        saved = flagsaver.save_flag_values()
        try:
            with flagsaver.flagsaver(
                workdir=str(tmp_path / "s"),
                sample=["optimizer.learning_rate=log:1e-3,1"],
                **options,
            ):
                holder = types.SimpleNamespace(value=BASE)
                monkeypatch.setattr(module, "CONFIG", holder)
                return module.main()
        finally:
            flagsaver.restore_flag_values(saved)

    return call


def test_a_search_in_which_all_diverge_has_no_best_and_says_so(command, capsys):
    assert command(trials=3) == 1
    printed = capsys.readouterr()
    assert "best of" not in printed.out
    assert printed.out.count("failed: not finite") == 3
    assert printed.err.startswith("error: no trial was trained to its end; ")


def test_pruning_that_never_could_is_refused(command, capsys):
    assert command(trials=3, pruner="median", prune_from=2) == 2
    assert "--prune_from=2 is not before the last of 2 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("search", "search_seed", -1),
        ("search", "trials", -1),
        ("search", "prune_from", 0),
        ("search", "population", 0),
        ("sweep", "sweep_seed", -1),
        ("sweep", "trials", -1),
    ],
)
def test_numbers_without_sense_are_refused(name, flag, value):
    commands.load(name)
    with pytest.raises(flags.IllegalFlagValueError, match=f"--{flag}={value}"):
        flags.FLAGS[flag].parse(str(value))


def test_the_test_set_does_not_choose(tmp_path):
    base = config.with_values(BASE, {"dataset.holdout": 0.0})
    with pytest.raises(config.ConfigError, match="must not be the test set's"):
        run(study_in(tmp_path), tmp_path, 1, base=base)
