"""Figures say what they show; a page shows them all."""

import html.parser
import io
import itertools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, data, display, models
from cnn_jax.figures import (
    explanations,
    gallery,
    image_plots,
    plots,
    run_figures,
    style,
    tensorboard,
)
from cnn_jax.figures.evaluated import Chosen, Evaluated, choose_images, sample_over_classes
from cnn_jax.inspection import dataflow, trained_network
from tests import commands, networks
from tests.recorded_runs import lenet, write_run

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = 12


@pytest.fixture
def saved(monkeypatch):
    """The figures that are saved, which aren't written."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, file: figures.append(figure))
    return figures


@pytest.fixture
def evaluated(tmp_path):
    """A run on own data, sorted by class, that takes class 3 for 4 and is right else."""
    name = str(tmp_path / "somewhere" / "own.npz")
    write_run(tmp_path / "run", lenet(epochs=2, **{"dataset.name": name}), [0.5, 0.75])
    own = Evaluated(tmp_path / "run")
    labels = np.repeat(np.arange(CLASSES), 20)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), np.uint8)
    own.dataset = data.Dataset(images, labels, images, labels, (), "made")
    guesses = np.where(labels == 3, 4, labels)
    own.probabilities = (0.95 * np.eye(CLASSES) + 0.05 / CLASSES)[guesses]
    own.network = types.SimpleNamespace(
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        config=config.Config(model=config.ModelConfig("lenet")),
        image_shape=(8, 8, 1),
        first_kernels=lambda: ("Stem/Conv_0", np.ones((5, 5, 1, 3))),
        feature_maps=lambda x: {"Conv_0": np.zeros((1, 8, 8, 32)), "Pool_0": x[:, ::2, ::2] - 99.0},
        probabilities=lambda x: np.eye(CLASSES)[[7] * len(x)],
    )
    return own


def texts_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def panel_titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_a_sample_has_all_classes_as_often_and_is_the_same_each_time():
    labels = np.repeat(np.arange(10), (50, 1, 50, 50, 50, 50, 50, 50, 50, 50))
    sample = sample_over_classes(labels, 30)
    assert sorted(np.bincount(labels[sample])) == [1, 3, 3, 3, 3, 3, 3, 3, 4, 4]
    assert len(set(sample)) == 30
    np.testing.assert_array_equal(sample, sample_over_classes(labels, 30))
    assert set(sample) != set(sample_over_classes(labels, 30, seed=1))
    firsts = [np.flatnonzero(labels == label)[0] for label in range(10)]
    assert len(set(sample) & set(firsts)) < 5  # the only one of a class is among them
    few = labels[sample_over_classes(labels, 4)]
    assert len(set(few)) == 4
    assert list(few) != [0, 1, 2, 3]
    assert len(sample_over_classes(labels[:3], 30)) == 3


def test_images_are_of_random_classes_unless_they_are_named(evaluated):
    two = choose_images(evaluated)
    assert len({image.truth for image in two}) == 2
    assert [image.name for image in two] == [image.name for image in choose_images(evaluated)]
    (named,) = choose_images(evaluated, ["CLASS 5"])
    assert named.truth == "class 5"
    where = [np.array_equal(named.image, image) for image in evaluated.dataset.test_images]
    assert 100 < where.index(True) < 120  # not the first of its class


def test_predictions_name_truth_and_guess_and_frame_the_wrong_ones(evaluated, saved, tmp_path):
    run_figures.draw(evaluated, "predictions", (), tmp_path)
    titles = panel_titles(saved[0])
    assert len(titles) == run_figures.COUNT
    truths = [title.splitlines()[0].removeprefix("truth: ") for title in titles]
    assert set(truths) == set(evaluated.network.class_names)
    assert titles[truths.index("class 3")] == "truth: class 3\nguess: class 4, 0.95"
    assert titles[truths.index("class 5")] == "truth: class 5\nguess: class 5, 0.95"
    for axes, truth in zip(saved[0].axes, truths, strict=False):
        assert axes.axison == (truth == "class 3")  # the frame
    assert saved[0].get_suptitle() == (
        "lenet on own.npz, accuracy 0.9167: 30 random test images of all 12 classes"
    )


def test_mistakes_say_how_many_there_are(evaluated, saved, tmp_path):
    run_figures.draw(evaluated, "mistakes", (), tmp_path)
    titles = panel_titles(saved[0])
    assert titles == ["truth: class 3\nguess: class 4, 0.95"] * 20
    assert saved[0].get_suptitle().endswith("all 20 mistakes")
    evaluated.probabilities = np.roll(evaluated.probabilities, 1, 1)
    run_figures.draw(evaluated, "mistakes", (), tmp_path)
    assert "the 30 most confident of 240 mistakes" in saved[1].get_suptitle().replace("\n", " ")
    # Those as confident as each other are not the first of sorted data.
    assert len(set(panel_titles(saved[1]))) == CLASSES


@pytest.mark.parametrize("count", [1, 7, 16, 30])
@pytest.mark.parametrize("name", ["cat", "a name of twenty-four !!"])
def test_a_grid_of_images_is_nearly_full_and_no_wider_than_a_page(saved, count, name):
    images, labels = np.zeros((count, 4, 4, 1), np.uint8), np.zeros(count, int)
    image_plots.draw_predictions(images, labels, np.ones((count, 1)), [name], "title", None)
    assert saved[0].get_size_inches()[0] <= 12
    assert len(saved[0].axes) - count <= (4 if count > 1 else 0)


def test_kernels_name_their_layer_and_have_a_scale(evaluated, saved, tmp_path):
    run_figures.draw(evaluated, "kernels", (), tmp_path)
    assert "the first convolution, Stem/Conv_0, 3 kernels 5×5×1" in saved[0].get_suptitle()
    assert saved[0].axes[-1].get_ylabel() == "weight"
    image_plots.draw_kernels(np.ones((3, 3, 2, 96)), "Conv_0", None)
    assert saved[1].get_suptitle() == "Conv_0, 64 of 96 kernels 3×3×2"
    assert len(panel_titles(saved[1])) == 2 * 64


def test_color_kernels_are_pictures(tmp_path):
    kernels = np.random.default_rng(0).normal(size=(5, 5, 3, 9))
    image_plots.draw_kernels(kernels, "test", tmp_path / "kernels.svg")
    assert (tmp_path / "kernels.svg").read_text().count("<image") >= 9


def test_feature_maps_have_a_scale_a_sign_a_count_and_the_guess(evaluated, saved, tmp_path):
    run_figures.draw(evaluated, "activations", choose_images(evaluated, ["class 5"]), tmp_path)
    (figure,) = saved
    assert figure.get_suptitle() == "Feature maps of lenet\ntruth: class 5, guess: class 7"
    said = texts_of(figure)
    assert "Conv_0: 16 of 32 maps 8×8" in said
    assert "Pool_0: 1 map 4×4" in said
    assert any(style.SIGN in text for text in said)
    assert "class 7" in said
    assert "1.00" in said
    maps = evaluated.network.feature_maps(choose_images(evaluated, ["class 5"])[0].image[None])
    scale = np.abs(maps["Pool_0"]).max()
    assert f"{scale:.2g}" in said
    assert f"−{scale:.2g}" in said
    sheet = figure.axes[0]
    ends = [image.get_clim() for image in sheet.images[3:]]  # the last layer's maps and bar
    assert ends == [pytest.approx((-scale, scale))] * 2
    run_figures.draw(
        evaluated, "activations", [Chosen("mine", np.zeros((8, 8, 1), np.uint8))], tmp_path
    )
    assert saved[1].get_suptitle() == "Feature maps of lenet\nmine, guess: class 7"


@pytest.mark.parametrize("channels", [(1,), (3, 4), (6, 16), (64, 64), (1, 512)])
def test_no_canvas_of_feature_maps_is_half_empty(saved, channels):
    maps = {f"Conv_{i}": np.ones((9, 9, c)) for i, c in enumerate(channels)}
    image_plots.draw_feature_maps(np.zeros((9, 9, 1), np.uint8), maps, "t", None)
    (figure,) = saved
    width, height = figure.get_size_inches()
    extents = np.array([image.get_extent() for image in figure.axes[0].images])
    assert extents[:, 1].max() > 0.6 * width or max(channels) < 3
    assert extents.min() >= 0
    assert extents[:, 1].max() < width
    assert 0.9 * height < extents[:, 2].max() < height
    tops, bottoms = extents[1::2, 3], extents[1::2, 2]
    assert (tops[1:] > bottoms[:-1]).all()


def test_receptive_fields_are_called_so(saved):
    fields = [("Conv_0", (2, 2), (3, 3)), ("Conv_1", (-2, -2), (12, 12))]
    image_plots.draw_receptive_fields(
        np.zeros((8, 8, 1), np.uint8), fields, "lenet: receptive fields", None
    )
    assert panel_titles(saved[0]) == ["Conv_0\n3×3 pixels", "Conv_1\n12×12 pixels"]
    assert "outside of the image is padding" in saved[0].get_suptitle().replace("\n", " ")
    image_plots.draw_receptive_fields(np.zeros((8, 8, 1), np.uint8), fields[:1], "one", None)
    assert saved[1].get_suptitle() == "one"


def test_no_title_has_the_path_of_the_data(evaluated, saved, tmp_path):
    for kind in ("curves", "predictions", "mistakes", "kernels", "confusion", "calibration"):
        run_figures.draw(evaluated, kind, (), tmp_path)
    for figure in saved:
        said = " ".join(texts_of(figure))
        assert "own.npz" in said
        assert str(tmp_path) not in said
    page = run_figures.write_gallery(evaluated, tmp_path).read_text()
    assert "<h1>lenet on own.npz, test accuracy 0.7500</h1>" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("fashion_mnist", "fashion_mnist"),
        ("synthetic:size=32", "synthetic:size=32"),
        ("/a/b/pets:size=64,fit=pad", "pets"),
        ("./pets/", "pets"),
        ("~/data/x.npz", "x.npz"),
        (".", pathlib.Path.cwd().name),
    ],
)
def test_a_title_has_the_last_part_of_a_path(name, short):
    assert data.short_name(name) == short


def test_colors_of_a_sign_are_the_same_in_figures_and_in_tensorboard(saved):
    values = np.linspace(-2, 2, 101)
    colors = style.color_signed(values, 2.0)
    image_plots.draw_kernels(values.reshape(1, 101, 1, 1), "", None)
    (shown,) = saved[0].axes[0].images
    drawn = 255 * shown.cmap(shown.norm(values))[:, :3]
    assert np.abs(drawn - colors).max() < 5  # matplotlib has 256 steps
    tiles = tensorboard._tile(values.reshape(1, 101, 1))
    np.testing.assert_array_equal(tiles[1, 1:-1], colors)
    assert (colors[0] == [5, 48, 97]).all()
    assert (colors[50] == 247).all()
    assert len(set(style.color_signed(np.array([np.nan]), 1.0)[0])) == 1  # gray
    np.testing.assert_array_equal(
        style.color_signed(np.array([np.inf, -9.0]), 2.0), colors[[-1, 0]]
    )
    assert style.measure_scale(np.zeros(3)) > 0


# Confusion matrices and calibration.


def test_a_confusion_matrix_by_hand():
    counts = plots.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def draw_confusion(tmp_path, monkeypatch, classes, count=2000):
    """Returns the figure of a confusion matrix as it is written, with its canvas."""
    saved = []
    write = plots.save
    monkeypatch.setattr(
        plots, "save", lambda figure, file: saved.append(figure) or write(figure, file)
    )
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count)
    guesses = np.where(generator.random(count) < 0.7, labels, (labels + 1) % classes)
    names = [f"class {i} of a rather long name" for i in range(classes)]
    plots.draw_confusion(labels, guesses, names, "many classes", tmp_path / "confusion.png")
    return saved[0], plots.confusion_matrix(labels, guesses, classes)


@pytest.mark.parametrize(
    "classes",
    [20, pytest.param(100, marks=pytest.mark.slow), pytest.param(250, marks=pytest.mark.slow)],
)
def test_a_confusion_matrix_of_many_classes_can_be_read(tmp_path, monkeypatch, classes):
    figure, counts = draw_confusion(tmp_path, monkeypatch, classes)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 5000
    axes = figure.axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        shown = [label for label in ticks if label.get_text()]
        assert len(shown) == min(classes, 100) if classes != 250 else 84
        assert all(len(label.get_text()) < 32 for label in shown)
        assert min(label.get_fontsize() for label in shown) >= 8
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    heights = sorted((box.y0, box.y1) for box in boxes)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(heights))
    cells = [text.get_text() for text in axes.texts]
    if classes == 20:  # zeros don't crowd it
        assert sorted(map(int, cells)) == sorted(counts[counts > 0])
    else:
        assert not cells
        i, j = np.unravel_index(np.argmax(counts - np.diag(np.diag(counts))), counts.shape)
        assert f"most often taken: class {i} of" in axes.get_xlabel()
        assert f"({counts[i, j]})" in axes.get_xlabel()


def test_calibration_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    means, accuracies, counts, error = plots.bin_confidences(np.array([0, 0, 0, 0]), p, 2)
    np.testing.assert_array_equal(counts, [0, 4])
    np.testing.assert_allclose(means, [0, 0.825])
    np.testing.assert_allclose(accuracies, [0, 0.75])
    assert error == pytest.approx(0.075)


# The page.


class Links(html.parser.HTMLParser):
    """The links, images and alternative texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.links, self.images = [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        if tag == "a":
            self.links.append(own["href"])
        elif tag == "img":
            self.images[own["src"]] = own["alt"]


SECTIONS = {kind: about.about for kind, about in run_figures.KINDS.items()}


def test_the_page_links_every_figure_that_exists_and_no_other(tmp_path):
    names = ["activations_T-shirt_top.png", "activations_ä.png", "kernels.png", "kernels.svg"]
    for name in [*names, "demo.png", "drawn.json", "kernelsnot.png"]:
        (tmp_path / name).write_bytes(b"")
    page = gallery.write_gallery(tmp_path, "a <b> & c", SECTIONS).read_text("utf-8")
    links = Links(page)
    inside = ["#kernels", "#activations"]
    assert sorted(links.links) == sorted(
        [*inside, *names[:1], "activations_%C3%A4.png", "kernels.png", "kernels.svg"]
    )
    assert links.images == {
        "activations_T-shirt_top.png": "Feature maps: T-shirt top",
        "activations_%C3%A4.png": "Feature maps: ä",
        "kernels.png": "Kernels",
    }
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in page
    assert page.count("<figcaption>") == 3
    assert "color-scheme: light dark" in page
    assert "http" not in page  # nothing from elsewhere
    (tmp_path / "kernels.png").unlink()
    (tmp_path / "kernels.svg").unlink()
    again = gallery.write_gallery(tmp_path, "again", SECTIONS).read_text("utf-8")
    assert "kernels" not in again


def test_a_page_of_somebody_else_is_left(tmp_path):
    (tmp_path / "index.html").write_text("<p>mine")
    assert gallery.write_gallery(tmp_path, "", SECTIONS) is None
    assert (tmp_path / "index.html").read_text() == "<p>mine"


def test_each_kind_has_one_sentence_on_how_to_read_it():
    for about in SECTIONS.values():
        assert about.reading.endswith(".")
        assert about.reading.count(". ") == 0


def test_the_command_writes_the_page_beside_the_figures(tmp_path):
    write_run(tmp_path / "run", lenet(epochs=1), [0.8])
    folder = tmp_path / "out"
    command = ("experiments.figures", f"--run={tmp_path / 'run'}", "--kind=curves")
    done = commands.run(*command, f"--output={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {folder / 'curves.png'}\nwrote {folder / 'index.html'}\n"
    assert list(Links((folder / "index.html").read_text()).images) == ["curves.png"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_what_is_being_drawn_and_a_log_nothing():
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        assert list(display.show_progress(["kernels", "fields"], "drawing", stream)) == [
            "kernels",
            "fields",
        ]
    assert "drawing kernels (0 of 2 done" in terminal.getvalue()
    assert "drawing fields (1 of 2 done" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # the line is cleared
    assert log.getvalue() == ""


def test_the_committed_gallery_shows_each_of_its_pictures():
    folder = ROOT / "experiments/reports/gallery"
    pictures = {file.name for file in folder.glob("*.png")}
    guide = (folder / "README.md").read_text("utf-8")
    for name in pictures:
        assert f"({name})" in guide, name
    page = Links((folder / gallery.PAGE).read_text("utf-8"))
    assert page.images.keys() <= pictures
    assert len(page.images) == len(SECTIONS) + 1
    for kind in SECTIONS.values():
        assert kind.heading in guide
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1.3e6


# What speaks for a guess.


def test_a_map_is_laid_over_its_image_in_the_colors_of_signs():
    image = np.full((4, 8, 1), 100, np.uint8)
    values = np.zeros((4, 8), np.float32)
    values[1, 1], values[2, 6] = 2.0, -2.0
    shown = explanations.lay_over(image, values).astype(int)
    assert shown.shape == (112, 224, 3)
    np.testing.assert_array_equal(shown[-1, 0], [100] * 3)  # 40 + 0.6 · 100: no color where it is 0
    red, blue = shown[42, 42], shown[70, 182]  # the middles of the two pixels
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    plain = explanations.lay_over(image, np.zeros((4, 8), np.float32))
    assert (plain == 100).all()


def test_a_map_lies_where_its_units_look():
    values = np.zeros((3, 3), np.float32)
    values[0, 2] = 1.0
    field = dataflow.ReceptiveField(size=3, stride=2, start=1)  # middles: pixels 2, 4 and 6
    placed = explanations.place(values, [field, field], (9, 9))
    assert placed.shape == (9, 9)
    np.testing.assert_allclose(placed[2], [0, 0, 0, 0, 0, 0.5, 1, 1, 0])
    np.testing.assert_allclose(placed[:, 6], [0, 1, 1, 0.5, 0, 0, 0, 0, 0])
    stretched = explanations.place(values, [], (9, 9))
    np.testing.assert_allclose(stretched[1], [0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)


def test_the_units_of_an_unpadded_layer_look_at_the_middle_of_the_image():
    model = models.create("lenet", classes=CLASSES)
    network = types.SimpleNamespace(model=model, input_shape=(28, 28, 1))
    (down, across) = explanations.find_fields.__wrapped__(network, "Conv_1/sigmoid")
    assert down == across == dataflow.ReceptiveField(size=14, stride=2, start=-2)
    assert explanations.find_fields.__wrapped__(network, "Conv_7") == []


def test_a_map_without_any_color_is_said_to_have_none(evaluated, saved, tmp_path):
    model = models.create("lenet", classes=CLASSES)
    network = trained_network.Trained(
        evaluated.network.config,
        model,
        jax.tree.map(jnp.zeros_like, networks.init(model, (28, 28, 1))),  # sees nothing
        lambda x: x.astype(jnp.float32) / 255,
        (28, 28, 1),
        tuple("abcdefghijkl"),
        {},
    )
    image = np.full((28, 28, 1), 9, np.uint8)
    for kind in explanations.KINDS:
        explained = explanations.explain(network, image, kind, "AvgPool_1", 2)
        assert explained.is_empty
        assert explained.reading.startswith("Nothing ")
        assert " c " in explained.reading.replace(".", " ")
    file = tmp_path / "a.png"
    explanations.draw_explanations(network, image[None], [1], [2], "title", file)
    titles = [axes.get_title() for axes in saved[-1].axes]
    assert titles[1:] == [
        "Grad-CAM, AvgPool_1: nothing\nfor c",
        "input gradient: nothing\nfor c",
        "occlusion: nothing\nfor c",
    ]


def test_explanations_have_a_row_for_each_image_with_truth_and_guess(evaluated, saved, tmp_path):
    model = models.create("lenet", classes=CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (CLASSES * 20, 28, 28, 1), np.uint8)
    evaluated.network = trained_network.Trained(
        evaluated.network.config,
        model,
        networks.init(model, (28, 28, 1)),
        lambda x: x.astype(jnp.float32) / 255,
        (28, 28, 1),
        evaluated.network.class_names,
        {},
    )
    evaluated.dataset = evaluated.dataset._replace(test_images=images)
    run_figures.draw(evaluated, "explanations", (), tmp_path)
    titles = [axes.get_title() for axes in saved[-1].axes]
    assert len(titles) == run_figures.EXPLAINED * 4
    assert all(title.startswith("truth: ") and "\nguess: " in title for title in titles[::4])
    guesses = [title.partition("guess: ")[2] for title in titles[::4]]
    for row, guess in enumerate(guesses):
        assert all(t.endswith(f"\nfor {guess}") for t in titles[4 * row + 1 : 4 * row + 4])
