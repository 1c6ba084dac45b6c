"""The README and the guides: every command is run, every file, heading and name is there."""

import ast
import functools
import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from experiments.commands import COMMANDS
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = (
    *("", "cnn_jax", "experiments", "experiments/launching", "experiments/reports"),
    *("experiments/reports/gallery", "tests"),
)
PAGES = sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("*.md"))
REPORTS = ROOT / "experiments/reports"  # their commands take hours
GUIDES = [page for page in PAGES if page.parent != REPORTS or page.name == "README.md"]
# What stands in a guide's shell blocks beside commands of this package.
OTHERS = (
    *("source .venv/bin/activate", "tensorboard --logdir", "jupyter notebook "),
    *("sbatch ", "#SBATCH ", "kubectl ", "sky "),
)
QUIET = "--config.epochs=1 --config.records.tensorboard=false --config.records.figures=false"
MINI = "--config.dataset.name=fashion_mnist_mini --config.dataset.train_examples=300 " + QUIET
TINY = (  # for large networks
    "--config.dataset.name=synthetic:size=28,channels=1,classes=10,train=64,test=32 "
    f"--config.dataset.train_examples=0 --config.batch_size=32 {QUIET}"
)
# What makes a command of the guides small; None: it is only read.
SMALL = {
    "train": MINI,
    "sweep": f"{MINI} --config.epochs=2",  # --halving needs two
    "search": MINI,
    "generalization": "--seeds=2 --steps=20",
    "polynomial": "--seeds=2",
    "ablation": f"{MINI} {MINI.replace('config', 'plain')} --seeds=0,1 --noalone",
    "speedrun": f"{MINI} --runs=2 --mark=0.01",
    "results": "--list",
    "prepare_data": None,  # the internet; see test_prepare_data.py
    "benchmark": None,  # PyTorch; see test_benchmark.py
    "benchmark_primitives": None,
    "benchmark_startup": None,
}


class Command(NamedTuple):
    """A command as a page has it."""

    name: str  # of experiments/
    arguments: tuple[str, ...]


def identify(page):
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=identify)


@functools.cache
def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The fenced blocks of a language, within lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", read(page), re.S | re.M)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def shell_lines(page):
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def code_spans(page):
    """What stands between backticks in the text, each in one line."""
    text = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands_of(page):
    """The commands of this package in a page, but those that stand for several, with … or NAME."""
    found = []
    for line in [*shell_lines(page), *code_spans(page)]:
        command = re.fullmatch(r"(?:[A-Z_]+=\S+ )*python -m experiments\.([a-z_]+)(.*)", line)
        if command and "…" not in line and "NAME" not in line:
            found.append(Command(command[1], tuple(shlex.split(command[2]))))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", [p for p in PAGES if commands_of(p)], ids=identify)
def test_commands_have_the_flags_and_values_that_a_page_gives_them(page, tmp_path):
    """Every command reads its arguments; train and sweep then say what they would do."""
    wanted = commands_of(page)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    done = commands.run("tests.parsing", json.dumps(wanted), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for command, (code, error) in zip(wanted, json.loads(done.stdout), strict=True):
        assert (code, error) == (0, ""), (*command, error)


@every_page
def test_flags_named_in_passing_exist(page):
    source = "".join(file.read_text() for file in ROOT.glob("experiments/*.py"))
    flags = set(re.findall(r"(?:DEFINE_\w+|define_path|define_config)\(\s*\"(\w+)\"", source))
    flags |= {"config", "help", "checkpoint"}
    flags |= {*re.findall(r"\"--(\w+)\"", (ROOT / "tests/faults.py").read_text())}
    for span in code_spans(page):
        if not span.startswith(("pip ", *OTHERS)):
            found = {name.removeprefix("no") for name in re.findall(r"(?:^| )--(\w+)", span)}
            assert found <= flags, span
    tree = importlib.import_module("cnn_jax.config").Config()
    for path in re.findall(r"--config\.([a-z_.]+[a-z_])\b", read(page)):
        functools.reduce(getattr, path.split("."), tree)


@every_page
def test_lines_of_shell_blocks_are_of_a_kind_that_tests_know(page):
    known = ("make ", "python -m experiments.", "python -m pytest tests/", "python tests/faults.py")
    for line in shell_lines(page):
        assert line.startswith((*known, *OTHERS)), line


@every_page
def test_targets_and_variables_of_make_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.M)
    for line in [*shell_lines(page), *code_spans(page)]:
        if not re.fullmatch(r"(?:[A-Z]+=\S+ )*make( [^…]+)", line):
            continue
        for word in shlex.split(line):
            name, given, _ = word.partition("=")
            assert re.search(rf"\b{name}\b", makefile) if given else name in ("make", *targets)


def slugs(page):
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@every_page
def test_links_lead_somewhere(page):
    text = read(page)
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"src=\"(\S+)\"", text)]:
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in slugs(file), target


@every_page
def test_files_tests_and_names_that_a_page_mentions_exist(page):
    for span in code_spans(page):
        path, _, test = span.partition("::")
        if re.fullmatch(r"(?:\w+/)*[a-z]\w*\.(?:py|md|ipynb|toml|txt)|(?:cnn_jax|tests)/\S*", path):
            near = (page.parent, *(ROOT / folder for folder in (*FOLDERS, "experiments/configs")))
            file = next((folder / path for folder in near if (folder / path).exists()), None)
            assert file, span
            if test:
                assert f"def {test}(" in file.read_text(), span
        modules = "augment|config|data|layers|losses|models|ops|optimizers|train"
        if found := re.fullmatch(rf"({modules})\.(?!json|py)(\w+)(?:\(.*\))?", span):
            module = importlib.import_module(f"cnn_jax.{found[1]}")
            assert hasattr(module, found[2]), span


def test_the_guide_to_experiments_has_every_command():
    table = read(ROOT / "experiments/README.md").partition("\n## ")[0]
    assert set(re.findall(r"^\| \[`(\w+)`\]", table, re.M)) == set(COMMANDS)


def test_the_guide_to_the_package_has_every_module_and_network():
    text = read(ROOT / "cnn_jax/README.md")
    layout = text.partition("cnn_jax/\n")[2].partition("```")[0]
    named = set(re.findall(r"^  ([\w./]+)", layout, re.M))
    here = {f.name for f in (ROOT / "cnn_jax").glob("*.py")} - {"__init__.py"}
    here |= {f"{f.parent.name}/" for f in (ROOT / "cnn_jax").glob("*/__init__.py")}
    assert named == here
    models = importlib.import_module("cnn_jax.models").MODELS
    networks = text.partition("## Networks")[2].partition("```")[0]
    for name in models:
        if not re.fullmatch(r"vgg\d+_bn", name):  # "vgg11_bn to vgg19_bn"
            assert f"`{name}`" in networks, name


def test_the_readme_is_one_page():
    text = read(ROOT / "README.md")
    assert len(text.split()) <= 900
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) - 2 <= 15


def test_headings_of_the_tour_are_there():
    cells = json.loads((ROOT / "experiments/tour.ipynb").read_text())["cells"]
    notes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(notes), re.M)
    text = read(ROOT / "experiments/for_readers_of_the_book.md")
    named = re.findall(r"tour, \*([^*]+)\*", text)
    assert named
    assert set(named) <= set(headings)


@pytest.mark.parametrize("page", [p for p in GUIDES if blocks(p, "python")], ids=identify)
def test_python_blocks_import_what_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )


def serve(arguments, folder):
    """Starts the demo, and stops it when it serves."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.demo", *arguments, f"--port={port}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        cwd=folder,
    )
    assert str(port) in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def run_small(command, folder):
    """Runs a command as it is typed, with what makes it small behind it."""
    name, given = command
    if name == "demo":
        return serve(given, folder)
    if (more := SMALL.get(name, "")) is None:
        return None
    more = TINY if name == "train" and ":smoke" in given[0] else more
    more += " --trials=3" * any(argument.startswith("--trials") for argument in given)
    done = commands.run(f"experiments.{name}", *given, *shlex.split(more), folder=folder)
    assert done.returncode == 0, (name, given, done.stderr[-2000:])
    assert "Traceback" not in done.stderr
    assert done.stdout.strip(), (name, given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as after `make train` and the README's sweep, with a user's images."""
    folder = tmp_path_factory.mktemp("guides")
    shutil.copytree(ROOT / "experiments", folder / "experiments")  # which commands write to
    mine = [f"my_pictures/{name}/{i}.png" for name in ("cup", "spoon", "fork") for i in range(20)]
    for name in ("pictures", *{str(pathlib.Path(name).parent) for name in mine}):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("shirt.png", "pictures/boot.png", *mine):
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(folder / name)
    for name in ("lenet", "lenet_max"):
        config = f"--config=experiments/configs/{name}.py"
        run_small(Command("train", (config, f"--workdir=runs/{name}")), folder)
    sweep = next(c for c in commands_of(ROOT / "README.md") if c.name == "sweep")
    run_small(sweep, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in GUIDES if commands_of(p)], ids=identify)
def test_commands_of_a_guide_work_as_they_are_typed(page, folder):
    for command in commands_of(page):
        run_small(command, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in GUIDES if blocks(p, "python")], ids=identify)
def test_python_blocks_run(page, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number, block in enumerate(blocks(page, "python")):
        file = folder / f"block_{number}.py"
        file.write_text(block)
        wanted = [sys.executable, file.name]
        if "def get_config" in block:
            wanted = [sys.executable, "-m", "experiments.train", f"--config={file.name}"]
            wanted += [f"--workdir=runs/{file.stem}", *shlex.split(MINI)]
        done = subprocess.run(
            wanted, cwd=folder, env=environment, text=True, capture_output=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()
