"""Tries the package where nothing but its wheel and what that needs is installed: `make wheel`."""

import importlib.metadata
import pathlib
import sys
import tempfile

import jax

import cnn_jax
from cnn_jax.display import Silent


def main() -> None:
    """Trains a network, reads its records, makes a table: with the package alone."""
    assert pathlib.Path(sys.prefix) in pathlib.Path(cnn_jax.__file__).parents, cnn_jax.__file__
    assert importlib.metadata.version("cnn_jax") == cnn_jax.__version__
    assert pathlib.Path(cnn_jax.__file__).with_name("py.typed").exists()
    files = [str(file) for file in importlib.metadata.files("cnn_jax") or ()]
    assert all(file.startswith(("cnn_jax/", "cnn_jax-")) for file in files), files

    network = cnn_jax.models.create("lenet", activation="relu")
    variables = network.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
    assert cnn_jax.layers.count_parameters(variables) == 61_706
    assert cnn_jax.inspection.layer_table.analyze(network, (28, 28, 1)).parameters == 61_706

    settings = cnn_jax.config.Config(
        dataset=cnn_jax.data.DatasetConfig(name="fashion_mnist_mini"),
        model=cnn_jax.models.ModelConfig(name="softmax"),
        epochs=2,
    )
    rows: list[cnn_jax.train.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder, "run")
        cnn_jax.train.train_and_evaluate(settings, run, Silent(), callbacks=[rows.append])
        assert cnn_jax.records.read_metrics(run) == rows
        cnn_jax.figures.run_figures.draw_curves(run)
        groups, _ = cnn_jax.reports.run_groups.group_runs(
            [cnn_jax.reports.run_groups.read_run(run)]
        )
    assert cnn_jax.reports.published.find_published(groups[0].config) == ()  # on other data
    print(
        f"cnn_jax {cnn_jax.__version__} works by itself: accuracy {rows[-1]['test_accuracy']:.4f}"
    )


if __name__ == "__main__":
    main()
