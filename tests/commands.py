"""Commands in this process, where each defines its flags when imported, or in one of their own."""

import atexit
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys

from absl import flags

ROOT = pathlib.Path(__file__).parent.parent


def load(name):
    """Imports experiments.<name>; a flag that another command has defined is the newest one's."""
    for flag in flags.FLAGS:
        flags.FLAGS[flag].allow_override = True
    module = importlib.import_module(f"experiments.{name}")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return module


@functools.cache
def _parent():
    """Forks every command of these tests; it ends when its input does."""
    command = [sys.executable, "-m", "tests.forked"]
    parent = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT)
    atexit.register(parent.communicate)
    return parent


def run(module, *arguments, folder=ROOT, **environment):
    """What `python -m module arguments` in a folder ends with, as subprocess.run returns it.

    Only the interpreter and JAX have been started before. A test of their start takes a new one.
    JAX has read its variables but JAX_PLATFORMS, which can be given, as can those of others.
    """
    arguments = [str(argument) for argument in arguments]
    fixed = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **fixed, **environment}
    parent = _parent()
    print(json.dumps([module, arguments, str(folder), environment]), file=parent.stdin, flush=True)
    return subprocess.CompletedProcess([module, *arguments], *json.loads(parent.stdout.readline()))
