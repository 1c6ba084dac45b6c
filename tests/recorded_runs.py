"""Records of runs that nobody trained."""

import importlib

from cnn_jax import config, records


def lenet(**values):
    tree = importlib.import_module("experiments.configs.lenet").get_config("")
    return config.with_values(tree, {"records.tensorboard": False, **values})


def write_run(path, settings, accuracies, command=None):
    """A run's records, with these test accuracies, one for each epoch that was trained."""
    settings = config.resolve(settings)
    with records.RunDirectory(path, settings) as run:
        for epoch, accuracy in enumerate(accuracies, 1):
            row = {
                "epoch": epoch,
                "step": 10 * epoch,
                "learning_rate": 0.1,
                "train_loss": 2 / epoch,
                "train_accuracy": accuracy + 0.01,
                "test_loss": 3 / epoch,
                "test_accuracy": accuracy,
                "examples_per_second": 1000.0 * epoch,
                "seconds": 1.5,
            }
            run.append_metrics(row)
    environment = {
        "command": command or ["/usr/bin/python3", "-m", "experiments.train"],
        "devices": ["cpu"],
        "processor": "Abacus",
        "cores": 2,
        "python": "3.11.7",
        "packages": {"jax": "0.10.2"},
        "source": {"commit": "abc", "clean": True, "diff_sha256": None},
    }
    records.write_json(path / "environment.json", environment)
