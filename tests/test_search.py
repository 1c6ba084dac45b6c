"""Searches: Optuna proposes, runs are trained, stopped, resumed and told."""

import optuna
import pytest

from cnn_jax import config, records, search, spaces, train
from cnn_jax.display import Silent

BASE = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=200, holdout=0.5),
    model=config.ModelConfig(name="softmax"),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=50,
)
RATES = search.Space(spaces.parse_sample(["optimizer.learning_rate=log:1e-3,1"]))


def silent(trials):
    return Silent()


def study_in(path, **options):
    return search.open_study("test", str(path / "optuna.log"), **options)


def run(study, directory, trials, space=RATES, base=BASE, together=1):
    return list(search.search(study, space, base, trials, directory, silent, together))


def test_the_space_is_optunas_and_back():
    space = search.Space(
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
    monkeypatch.setattr(search, "WAIT_SECONDS", 0.01)
    study = study_in(tmp_path)
    left = study.ask(RATES.distributions())  # by a process that was killed
    held = study.ask(RATES.distributions())
    trial = RATES.trial(BASE, held.params)
    lock = records.RunDirectory(tmp_path / trial.name, config.resolve(trial.config))
    lock.__enter__()
    found = []
    for frozen, outcome in search.search(study, RATES, BASE, 2, tmp_path, silent):
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
        found = search.search(study, RATES, BASE, 3, tmp_path, silent)
        numbers = [next(found)[0].number, next(found)[0].number]
    assert numbers == [1, 2]
    assert [frozen.number for frozen, _ in found] == [0]


def test_a_study_keeps_to_its_search(tmp_path):
    run(study_in(tmp_path), tmp_path, 1)
    other = search.Space(spaces.parse_sample(["optimizer.learning_rate=log:1e-3,2"]))
    with pytest.raises(search.SearchError, match=r"is another search's: there optimizer\.learning"):
        run(study_in(tmp_path), tmp_path, 2, other)
    base = config.with_values(BASE, {"batch_size": 25})
    with pytest.raises(search.SearchError, match="there batch_size is 50, here 25"):
        run(study_in(tmp_path), tmp_path, 2, base=base)


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


def test_one_that_diverges_counts_as_0_and_one_that_cannot_work_fails(tmp_path, monkeypatch):
    def diverge(settings, workdir, display=None, stop=None, dataset=None):
        raise train.DivergedError("the loss was not finite")

    monkeypatch.setattr(train, "train_and_evaluate", diverge)
    ((frozen, outcome),) = run(study_in(tmp_path), tmp_path, 1)
    assert (frozen.value, outcome.error) == (0.0, "the loss was not finite")
    space = search.Space(spaces.parse_sample(["batch_size=choice:0"]))
    study = search.open_study("other", str(tmp_path / "optuna.log"))
    ((frozen, outcome),) = run(study, tmp_path, 1, space)
    assert frozen.state == optuna.trial.TrialState.FAIL
    assert "batch_size" in outcome.error


def test_the_test_set_does_not_choose(tmp_path):
    base = config.with_values(BASE, {"dataset.holdout": 0.0})
    with pytest.raises(config.ConfigError, match="must not be the test set's"):
        run(study_in(tmp_path), tmp_path, 1, base=base)
