"""The three ways to compile a step, and populations, on eight devices."""

import os
import pathlib
import subprocess
import sys


def test_eight_devices_give_the_numbers_of_one():
    """Runs tests/devices.py with eight simulated devices; its asserts are the test."""
    script = pathlib.Path(__file__).with_name("devices.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(script.parent.parent),
    }
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=script.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all equal"
