"""Records that somebody edited, damaged or sent: a sentence, nothing else, and nothing outside."""

import json
import pathlib
import random
import shutil
import warnings

import pytest

from cnn_jax import config, events, records
from cnn_jax import train as training
from cnn_jax.display import Silent
from cnn_jax.errors import RunDirectoryError, UserError
from cnn_jax.figures import run_figures
from cnn_jax.inspection import trained_network
from cnn_jax.reports import results, run_groups, tables
from cnn_jax.sweeps import spaces, sweep_record
from tests import commands

command = commands.load("results")

SETTINGS = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=100),
    model=config.ModelConfig(name="lenet", channels=(2, 2), hidden=(4,)),
    epochs=2,
    batch_size=50,
)
RESULTS = pathlib.Path(__file__).parent.parent / "experiments/reports/results.json"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A sweep of one trial, finished, with an error.json beside its records."""
    directory = tmp_path_factory.mktemp("records") / "sweep"
    trials = sweep_record.identify_trials(spaces.expand(SETTINGS, {"seed": (0,)}))
    sweep_record.claim_directory(
        directory, sweep_record.make_record("lenet.py", {"epochs": 2}, SETTINGS, trials)
    )
    run = directory / trials[0].name
    training.train_and_evaluate(trials[0].config, run, Silent())
    records.write_json(run / "error.json", {"kind": "OSError", "error": "no", "time": 1.5})
    shutil.copy(RESULTS, directory / "results.json")
    return directory


# Values of every wrong kind; a run from a stranger may hold any of them.
ODD = [None, True, 0, -1, 2**70, -(10**30), 1.5, 1e308, "", "x", "\x1b[31m", "../../out", "/etc"]
ODD += [[], [[]], [0], ["x"] * 3, {}, {"a": {}}, "$a$", "\ud800", "9" * 5000, 10**9]


def places(tree, path=()):
    """Every place in a tree of JSON, as the keys that lead there."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


def mutate_value(text, rng):
    """JSON with one value exchanged, removed, renamed or nested deep."""
    tree = json.loads(text)
    *way, last = rng.choice(places(tree))
    node = tree
    for key in way:
        node = node[key]
    kind = rng.random()
    if kind < 0.6:
        node[last] = rng.choice(ODD)
    elif kind < 0.75:
        del node[last]
    elif kind < 0.85 and isinstance(node, dict):
        node[rng.choice(["x", "seed", "name", "resumed"])] = node.pop(last)
    elif kind < 0.95:
        node[last] = "MARK"
        value = rng.choice(["NaN", "-Infinity", "1e999", "[" * 3000 + "]" * 3000, "9" * 400])
        return json.dumps(tree).replace('"MARK"', value)
    else:
        return json.dumps(rng.choice(ODD))
    return json.dumps(tree)


def mutate_text(text, rng):
    """The bytes cut, flipped or doubled."""
    content = bytearray(text.encode())
    at = rng.randrange(len(content))
    kind = rng.randrange(3)
    if kind == 0:
        return bytes(content[:at])
    if kind == 1:
        content[at] ^= 1 << rng.randrange(8)
        return bytes(content)
    return bytes(content[:at]) + bytes(content[at : at + 40]) * 2 + bytes(content[at:])


def mutate(file, rng):
    """Damages a file of records in one place."""
    text = file.read_text()
    if rng.random() < 0.3:
        file.write_bytes(mutate_text(text, rng))
    elif file.suffix == ".jsonl":
        lines = text.splitlines()
        i = rng.randrange(len(lines))
        lines[i] = mutate_value(lines[i], rng)
        file.write_text("\n".join(lines) + "\n")
    else:
        file.write_text(mutate_value(text, rng), errors="surrogatepass")


def read_quickly(directory, run):
    """Everything that reads records without the network."""
    with_errors = [
        lambda: records.read_config(run),
        lambda: config.check(records.read_config(run)),
        lambda: records.read_environment(run),
        lambda: records.read_metrics(run),
        lambda: sweep_record.read_record(directory),
        lambda: sweep_record.find_result(directory, spaces.expand(SETTINGS, {"seed": (0,)})[0]),
        lambda: sweep_record.read_error(run),
        lambda: report(directory),
        lambda: claim(directory),
    ]
    return with_errors


def report(directory):
    runs = run_groups.find_runs([directory])
    groups, repeated = run_groups.group_runs(runs)
    tables.report(groups, repeated, runs)
    json.dumps(tables.result_rows(groups, lambda run: 1))


def claim(directory):
    trials = sweep_record.identify_trials(spaces.expand(SETTINGS, {"seed": (0,)}))
    sweep_record.claim_directory(
        directory, sweep_record.make_record("lenet.py", {"epochs": 2}, SETTINGS, trials)
    )


def read_results(directory):
    """Everything that reads results.json."""
    file = directory / "results.json"
    return [
        lambda: command.document(command.read_entries(file)),
        lambda: command.summarize(command.read_entries(file)),
        lambda: command.write_tables(command.read_entries(file)),
        lambda: results.merge_entries(command.list_rows(), command.read_entries(file), {}),
    ]


def read_slowly(directory, run):
    """What needs the checkpoints or the data too."""
    return [
        lambda: trained_network.load(run),
        lambda: training.train_and_evaluate(SETTINGS, run, Silent()),
        lambda: run_figures.Evaluated(run).probabilities,
        lambda: run_figures.write_board(run_figures.Evaluated(run)),
        lambda: run_figures.draw(run_figures.Evaluated(run), "curves", (), run / "figures"),
    ]


def state_of(folder, but):
    """Every file below a folder, outside of `but`, with its content."""
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and but not in path.parents
    }


FILES = ("config.json", "environment.json", "metrics.jsonl", "error.json")


def attack(recorded, tmp_path, rng, count, slow_share):
    """Mutates a record, reads it by everything that does; returns how many readings there were."""
    readings = 0
    sandbox = tmp_path / "sandbox"
    (sandbox / "others").mkdir(parents=True)
    (sandbox / "others" / "file").write_text("mine")
    for _ in range(count):
        directory = sandbox / "sweep"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(recorded, directory)
        (run,) = (path for path in directory.iterdir() if path.is_dir())
        file = rng.choice([run / name for name in FILES] + [directory / "sweep.json"])
        if rng.random() < 0.1:
            file = directory / "results.json"
        mutate(file, rng)
        before = state_of(sandbox, but=directory)
        of_results = file.name == "results.json"
        readers = read_results(directory) if of_results else read_quickly(directory, run)
        if rng.random() < slow_share:
            readers += read_slowly(directory, run)
        mutated = file.read_bytes()
        for read in readers:
            readings += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read()
            except UserError as error:
                sentence = str(error)
            except Exception as error:
                raise AssertionError((file.name, mutated)) from error
            else:
                sentence = ""
            assert not set("\n\x1b") & set(sentence), (file.name, mutated, sentence)
        assert state_of(sandbox, but=directory) == before
    return readings


def test_records_with_a_wrong_value_end_in_a_sentence_and_write_nowhere_else(recorded, tmp_path):
    assert attack(recorded, tmp_path, random.Random(1), 30, slow_share=0.0) > 200


@pytest.mark.slow
def test_thousands_of_wrong_records(recorded, tmp_path):
    assert attack(recorded, tmp_path, random.Random(2), 2500, slow_share=0.02) > 15_000


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("config.json", ("seed",), "1", "config.seed='1' is of the wrong type; it must be int"),
        ("config.json", ("optimizer",), 3, "config.optimizer is 3, where an object is expected"),
        ("config.json", ("model", "towers"), 3, "config.model.towers is unknown"),
        ("environment.json", ("devices",), "cpu", "devices is 'cpu', where list[str] is expected"),
        ("environment.json", ("data", "mean"), [None], "data.mean[0] is None, where float"),
        ("environment.json", ("data", "image_shape"), [28, 28], "data.image_shape is [28, 28]"),
        ("environment.json", ("resumed",), [{"data": 3}], "resumed[0].data is 3, where an object"),
        ("metrics.jsonl", ("test_loss",), True, "line 1: test_loss is True, where float"),
        ("metrics.jsonl", ("epoch",), 7, "line 1: epoch is 7, where 1 is expected"),
        ("metrics.jsonl", ("step",), 2**64, "is out of range"),
    ],
)
def test_the_sentence_names_file_and_key(recorded, tmp_path, name, key, value, said):
    run = shutil.copytree(recorded / "seed=0", tmp_path / "run")
    lines = (run / name).read_text().splitlines() if name.endswith("l") else []
    tree = json.loads(lines[0] if lines else (run / name).read_text())
    node = tree
    for part in key[:-1]:
        node = node[part]
    node[key[-1]] = value
    (run / name).write_text("\n".join([json.dumps(tree), *lines[1:]]))
    read = {"c": records.read_config, "e": records.read_environment, "m": records.read_metrics}
    with pytest.raises(RunDirectoryError) as error:
        read[name[0]](run)
    assert str(run / name) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("text", ['{"seed": NaN}', '{"seed": 1e999}', "[" * 100_000, "\x00"])
def test_numbers_that_are_none_and_nests_without_end_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"config\.json can't be read: ") as error:
        records.read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_a_run_directory_that_holds_links_is_not_written_through(recorded, tmp_path):
    run = shutil.copytree(recorded / "seed=0", tmp_path / "run")
    target = tmp_path / "mine"
    target.mkdir()
    (target / "file").write_text("precious")
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        content = (run / name).read_bytes()
        (target / name).write_bytes(content)
        (run / name).unlink()
        (run / name).symlink_to(target / name)
    run_figures.draw_curves(run)
    (run / "figures" / "curves.png").unlink()
    (run / "figures" / "curves.png").symlink_to(target / "file")
    before = state_of(target, but=run)
    training.train_and_evaluate(SETTINGS, run, Silent())
    run_figures.draw_curves(run)
    assert state_of(target, but=run) == before
    assert not (run / "metrics.jsonl").is_symlink()
    assert (run / "figures" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    for folder in ("figures", "tensorboard", "checkpoints"):
        shutil.rmtree(run / folder)
        (run / folder).symlink_to(target)
    with pytest.raises(UserError, match="is a link that leads out"):
        training.train_and_evaluate(SETTINGS, run, Silent())
    with pytest.raises(UserError, match="is a link that leads out"):
        events.open_writer(run)
    with pytest.warns(UserWarning, match="learning curves were not drawn: .* leads out"):
        run_figures.draw_curves(run)
    assert state_of(target, but=run) == before


def test_a_lock_that_is_a_link_or_a_pipe_is_refused(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="can't write to the run directory"):
        records.RunDirectory(tmp_path, config.resolve(SETTINGS))
    assert not (tmp_path / "elsewhere").exists()
