"""Runs a command on the small data set, and sends it SIGTERM at a moment of the first training.

python -m tests.stopping MOMENT COMMAND [--flag=…]; MOMENT is a method of the display, 'start_epoch'
say, at whose first call the signal comes, or 'never'.
"""

import runpy
import signal
import sys

from cnn_jax import data, train

moment, command, *arguments = sys.argv[1:]
load, train_and_evaluate = data.load, train.train_and_evaluate


def load_mini(name, folder=None, keep=True):
    return load("fashion_mnist_mini")


def train_with_signal(settings, workdir, display, *more):
    if moment != "never":
        method = getattr(display, moment)

        def send_signal(*shown):
            setattr(display, moment, method)
            signal.raise_signal(signal.SIGTERM)
            method(*shown)

        setattr(display, moment, send_signal)
    return train_and_evaluate(settings, workdir, display, *more)


data.load, train.train_and_evaluate = load_mini, train_with_signal
sys.argv = [command, *arguments]
runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
