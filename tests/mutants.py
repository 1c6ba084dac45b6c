"""Mutation testing: small faults, put into a module one at a time; do its tests see each of them?

make mutants MODULE=cnn_jax/losses.py             every mutant
make mutants MODULE=cnn_jax/losses.py SAMPLE=60   60 of them, the same in every run

mutmut makes the mutants: < becomes <=, + becomes -, 0 becomes 1, an argument is left out or None, a
branch is always taken. Added here: a call whose value nobody takes is left out. Text, types,
decorators, raise statements and zip's `strict` stay as they are. Each mutant is written into a copy
of the working tree and judged there by the module's quick tests, which `tests/mutants.toml` names.

How to read the result: a mutant is killed when a test fails. It times out when the tests hang,
which counts as killed. One that survives is printed, file:line and what changed: no test tells it
from the original. Assert the value or the property that it breaks. Where no input can tell the two
apart, name the mutant in `tests/mutants.toml` with the reason: then it isn't run and doesn't count.
The exit code is 1 below 90 % killed, and when a mutant named there is no longer made.
"""

import argparse
import collections
import difflib
import functools
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import flax  # noqa: F401  slow to import, so before the processes are forked that run the tests
import hypothesis
import jax
import libcst
import optax  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
from libcst import matchers
from mutmut.mutation import mutators

ROOT = pathlib.Path(__file__).parent.parent
FORK = multiprocessing.get_context("fork")
ENOUGH = 90  # percent killed
LEFT_ALONE = (
    matchers.Annotation()
    | matchers.Decorator()
    | matchers.Raise()
    | matchers.Assign(value=matchers.Subscript(value=matchers.Name("Callable")))
)


class Mutant(NamedTuple):
    """A module's source with one fault."""

    line: int
    diff: str
    code: str


class _Places(libcst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[libcst.CSTNode, libcst.CSTNode]] = []  # a node, another in its place

    def on_visit(self, node: libcst.CSTNode) -> bool:
        if matchers.matches(node, LEFT_ALONE):
            return False
        for kind, operator in (*mutators.mutation_operators, (libcst.Expr, _leave_out)):
            if isinstance(node, kind) and operator is not mutators.operator_string:
                self.found += [(node, changed) for changed in operator(node)]
        return True


def _leave_out(statement: libcst.Expr) -> Iterator[libcst.CSTNode]:
    if isinstance(statement.value, libcst.Call):
        yield libcst.Pass()


def make_mutants(source: str) -> list[Mutant]:
    """Returns the mutants of a module in the order of their lines, all different."""
    tree = libcst.parse_module(source).deep_clone()  # no node stands in two places
    before, found = "".join(map(tree.code_for_node, tree.header)), []
    for (
        statement
    ) in tree.body:  # one by one, as replacing and comparing take long in a whole module
        old = tree.code_for_node(statement)
        after = source[len(before) + len(old) :]
        places, seen = _Places(), {_without_strict(old)}
        statement.visit(places)
        for node, changed in places.found:
            new = tree.code_for_node(statement.deep_replace(node, changed))
            if _without_strict(new) not in seen:
                seen.add(_without_strict(new))
                line, diff = _compare(old, new)
                found.append(Mutant(before.count("\n") + line, diff, before + new + after))
        before += old
    return sorted(found, key=lambda mutant: mutant.line)


def _without_strict(code: str) -> str:
    return re.sub(r",\s*strict=\w+|,\s*(?=\))", "", code)


def _compare(old: str, new: str) -> tuple[int, str]:
    """Returns the first line that changed and the lines that did, '- old' and '+ new'."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0))[2:]
    (line,) = re.findall(r"^@@ -(\d+)", lines[0])
    return int(line), "\n".join(
        f"{text[0]} {text[1:].strip()}" for text in lines if text[0] in "+-"
    )


def judge(folder: pathlib.Path, module: str, tests: list[str], limit: float, code: str) -> str:
    """Returns 'killed', 'timed out' or 'survived'; below the folder each process has its copy."""
    own = folder / str(os.getpid())
    if not own.exists():
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        for name in filter(lambda name: (ROOT / name).is_file(), names.stdout.split("\0")):
            (own / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, own / "tree" / name)
    (own / "tree" / module).write_text(code)
    process = FORK.Process(target=_run_tests, args=(own, tests))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)  # and the commands that the tests have started
        process.join()
        return "timed out"
    return "killed" if process.exitcode else "survived"


def _run_tests(own: pathlib.Path, tests: list[str]) -> None:
    os.setsid()
    with (own / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # Bytecode of one mutant would be taken for another of the same length and second.
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    os.chdir(own / "tree")
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if path not in ("", str(ROOT)))]
    sys.modules.pop("tests", None)
    options = ["-x", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={own / 'temporary'}"]
    os._exit(pytest.main([*options, *tests], plugins=[_Quick(own.parent / "compiled")]))


class _Quick:
    """Shares compiled programs among the mutants; doesn't look for smaller failing examples."""

    def __init__(self, compiled: pathlib.Path) -> None:
        self.compiled = str(compiled)

    @pytest.hookimpl(trylast=True)  # after tests/conftest.py
    def pytest_configure(self) -> None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = self.compiled
        jax.config.update("jax_compilation_cache_dir", self.compiled)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutants", phases=phases, report_multiple_bugs=False)
        hypothesis.settings.load_profile("mutants")


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="mutants", description="See tests/mutants.py.")
    parser.add_argument("module", help="cnn_jax/losses.py, say")
    parser.add_argument("--sample", type=int, help="how many mutants to run; all if not given")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    module = options.module
    if not (ROOT / module).is_file():
        parser.error(f"{module} is not a file below {ROOT}; give one such as cnn_jax/losses.py.")
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text()).get(module, {})
    tests = table.get("tests", [f"tests/test_{pathlib.Path(module).stem}.py"])
    same = {entry["diff"].strip() for entry in table.get("equivalent", [])}
    made = make_mutants((ROOT / module).read_text())
    if gone := same - {mutant.diff for mutant in made}:
        print("tests/mutants.toml names mutants that are no longer made:", *gone, sep="\n")
        return 1
    chosen = [mutant for mutant in made if mutant.diff not in same]
    print(
        f"{module}: {len(made)} mutants, {len(made) - len(chosen)} named as equivalent", flush=True
    )
    if options.sample and options.sample < len(chosen):
        sample = random.Random(0).sample(range(len(chosen)), options.sample)
        chosen = [chosen[i] for i in sorted(sample)]
    start = time.monotonic()
    counts = judge_all(module, tests, chosen, options.processes)
    percent = 100 * (len(chosen) - counts["survived"]) / max(1, len(chosen))
    print(
        f"{module}: {counts['killed']} killed, {counts['timed out']} timed out, "
        f"{counts['survived']} survived of {len(chosen)}: {percent:.1f} % killed "
        f"in {time.monotonic() - start:.0f} s"
    )
    return int(percent < ENOUGH)


def judge_all(
    module: str, tests: list[str], chosen: list[Mutant], processes: int
) -> collections.Counter[str]:
    """Counts the verdicts, and prints the mutants that survive.

    Raises:
      SystemExit: the tests fail without a mutant.
    """
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="mutants_") as name:
        folder, start = pathlib.Path(name), time.monotonic()
        if judge(folder, module, tests, 600.0, (ROOT / module).read_text()) != "survived":
            print(next(folder.glob("*/log")).read_text())
            sys.exit(f"{', '.join(tests)}: fails without a mutant; mend that first.")
        run = functools.partial(judge, folder, module, tests, 20 + 5 * (time.monotonic() - start))
        with ProcessPoolExecutor(processes, FORK) as pool:
            verdicts = pool.map(run, [mutant.code for mutant in chosen])
            for mutant, verdict in zip(chosen, verdicts, strict=True):
                counts[verdict] += 1
                if sys.stderr.isatty():
                    print(f"\r{counts.total()}/{len(chosen)} ", end="", file=sys.stderr)
                if verdict == "survived":
                    print(f"\n{module}:{mutant.line} survived\n{mutant.diff}", flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
