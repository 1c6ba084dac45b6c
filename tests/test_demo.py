"""The local page: what it answers, and what it refuses."""

import base64
import doctest
import hashlib
import io
import json
import re
import struct
import threading
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, models
from cnn_jax.data import pictures
from cnn_jax.figures import explanations, style
from cnn_jax.inspection import attribution, trained_network
from experiments import demo_pictures, demo_view
from tests import commands
from tests.demo_pages import GRAY, at_once, saved, stub

demo = commands.load("demo")


@pytest.fixture(scope="module")
def network():
    """An untrained LeNet."""
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini"),
        model=config.ModelConfig(name="lenet"),
    )
    model = models.create("lenet", classes=10, channels=(3, 20))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))

    def prepare(images):
        return images.astype(jnp.float32) / 255

    names = tuple("abcdefghij")
    return trained_network.Trained(settings, model, variables, prepare, (28, 28, 1), names, {})


@pytest.fixture
def client(network):
    return demo.make_app(network).test_client()


def png(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def pixels_of(url):
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def colors_of(url):
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_the_page_names_the_run(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "<h1>lenet on fashion_mnist_mini</h1>" in page.text
    assert "{{" not in page.text
    assert "The network distinguishes 10 classes: a, b, c, d, e, f, g, h, i, j." in page.text
    assert 'data-height="28" data-width="28" data-fit="pad" data-ground="#000"' in page.text
    light = demo.make_app(stub((6, 8, 3), data={"border": [0.9, 0.1]}, fit="crop")).test_client()
    expected = 'data-height="6" data-width="8" data-fit="crop" data-ground="#fff"'
    assert expected in light.get("/").text
    body = light.get("/").text.split("<body>")[1].split("<script>")[0]
    assert "Draw something, or choose, drop or paste a picture." in body
    assert "example" not in body


def test_the_page_offers_a_test_image_of_each_class_of_fashion_mnist(client, mini):
    assert 'class="example"' not in client.get("/").text  # its classes have other names
    names = mini.class_names
    fashion = types.SimpleNamespace(name="fashion_mnist")
    network = stub(config=types.SimpleNamespace(model=fashion, dataset=fashion), class_names=names)
    page = demo.make_app(network).test_client().get("/").text
    assert "Draw something, choose an example, or choose, drop or paste" in page
    shown = re.findall(r'<img alt="([^"]+)" src="([^"]+)">', page)
    assert tuple(name for name, _ in shown) == names
    for label, (_, url) in enumerate(shown):
        image = mini.test_images[mini.test_labels == label][0]
        np.testing.assert_array_equal(pixels_of(url), image[..., 0])


def test_a_picture_is_seen_as_the_network_sees_it(client, network, mini):
    image = mini.test_images[0]
    answer = client.post("/see", data=png(image[..., 0])).json
    probabilities = network.probabilities(image[None])[0]
    assert [name for name, *_ in answer["classes"]] == [
        network.class_names[i] for i in np.argsort(-probabilities)
    ]
    assert answer["classes"][0][1] == pytest.approx(probabilities.max(), abs=1e-5)
    convolutions = ["Conv_0", "Conv_0/sigmoid", "AvgPool_0", "Conv_1", "Conv_1/sigmoid"]
    assert [layer["name"] for layer in answer["layers"]] == [*convolutions, "AvgPool_1"]
    assert [layer["shape"] for layer in answer["layers"]][1:3] == [[28, 28, 3], [14, 14, 3]]
    assert answer["input"]["shape"] == [28, 28, 1]
    np.testing.assert_array_equal(pixels_of(answer["input"]["picture"]), image[..., 0])
    assert (answer["done"], answer["warning"]) == ([], None)
    maps = network.feature_maps(image[None])["Conv_0"][0]
    first = answer["layers"][0]
    assert first["scale"] == np.abs(maps).max()
    expected = style.color_signed(np.concatenate(np.moveaxis(maps, -1, 0), 1), first["scale"])
    np.testing.assert_allclose(colors_of(first["picture"]), expected, atol=3)  # of 255 colors
    legend = style.color_signed(np.linspace(-1, 1, 255), 1.0)
    np.testing.assert_array_equal(colors_of(answer["legend"])[0], legend)
    assert answer["layers"][3]["shown"] == 16
    assert pixels_of(answer["layers"][3]["picture"]).shape == (10, 16 * 10)  # the first 16 of 20


def test_other_sizes_kinds_and_dark_on_light(client, mini):
    image = mini.test_images[1, :, :, 0]
    body = png(image)
    for kind in ("image/png", "application/x-www-form-urlencoded"):  # the latter is curl's
        assert client.post("/see", data=body, content_type=kind).status_code == 200
    large = np.asarray(Image.fromarray(255 - image).resize((100, 60)).convert("RGB"))
    answer = client.post("/see?invert=1&fit=stretch", data=png(large, "JPEG"))
    assert answer.status_code == 200
    seen = pixels_of(answer.json["input"]["picture"])
    assert np.corrcoef(seen.ravel(), image.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no picture was sent; choose a picture file"),
        (b"<svg onload='alert(1)'/>", "the file is not a picture"),
        (b'{"picture": ', "the file is not a picture"),
        (
            png(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8))[:200],
            "the file is truncated or damaged",
        ),
    ],
)
def test_what_is_no_picture_is_one_sentence(client, content, expected):
    answer = client.post("/see", data=content)
    assert answer.status_code == 400
    assert expected in answer.json["error"]
    assert "\n" not in answer.json["error"]


def with_chunk(kind, content):
    """A 3x3 PNG with a chunk of its own."""
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    whole = png(np.full((3, 3), 128, np.uint8))
    return whole[:33] + chunk + whole[33:]


def exif(kind, value):
    """EXIF with one entry, the orientation."""
    entry = struct.pack("<HHHL", 1, 274, kind, 1) + value
    return b"II*\0\x08\0\0\0" + entry + bytes(4)


ODD = {
    "1x1": (saved(Image.new("L", (1, 1))), 200),
    "long": (saved(Image.new("L", (demo_pictures.SIDE, 1))), 200),
    "too long": (saved(Image.new("L", (1, demo_pictures.SIDE + 1))), 400),
    "palette": (saved(GRAY.convert("P"), transparency=3), 200),
    "bits": (saved(GRAY.convert("1")), 200),
    "16 bits": (saved(Image.fromarray(np.asarray(GRAY, np.uint16) * 256)), 200),
    "32 bits": (saved(GRAY.convert("F"), "TIFF"), 400),
    "CMYK": (saved(GRAY.convert("CMYK"), "JPEG"), 200),
    "animated": (saved(GRAY, "GIF", save_all=True, append_images=[Image.new("L", (8, 6))]), 200),
    "text": (with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))), 400),
    "profile": (with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000), 1)), 400),
    "orientation": (with_chunk(b"eXIf", exif(3, struct.pack("<HH", 6, 0))), 200),
    "orientation, text": (with_chunk(b"eXIf", exif(2, b"abc\0")), 200),
    "orientation, fraction": (with_chunk(b"eXIf", exif(5, bytes(4))), 200),
    "many entries": (with_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(99)), 200),
    "header": (png(np.zeros((3, 3), np.uint8))[:30], 400),
    "TIFF, header": (b"II*\0", 400),
    "BMP, header": (b"BM" + bytes(60), 400),
    "WebP, header": (b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(20), 400),
    "text file": ("kein Bild".encode("utf-16"), 400),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_seen_or_refused_in_a_sentence(client, capfd, name):
    content, status = ODD[name]
    answer = client.post("/see", data=content)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert pixels_of(answer.json["input"]["picture"]).shape == (28, 28)
    else:
        assert list(answer.json) == ["error"]
        assert answer.json["error"].startswith(("the picture announces", "the file "))
        assert answer.json["error"].endswith(".")
        assert "\n" not in answer.json["error"]
    assert capfd.readouterr() == ("", "")


def test_whatever_a_decoder_raises_is_a_sentence(client, monkeypatch):
    for error in (struct.error("x"), KeyError(1), RecursionError(), MemoryError(), TypeError("\n")):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(demo_pictures.data, "decode_picture", fail)
        answer = client.post("/see", data=saved(GRAY))
        assert answer.status_code == 400
        name = type(error).__name__
        expected = f"the file is truncated or damaged ({name}); replace it."
        assert answer.json == {"error": expected}


def test_the_page_knows_how_many_bytes_a_picture_may_have():
    text = demo.PAGE.read_text(encoding="utf-8")
    assert f"blob.size <= {demo.UPLOAD_BYTES})" in text
    assert f"at most {demo.UPLOAD_BYTES:,} bytes." in text


def announcing(width, height):
    """A PNG whose header says that it is so large."""
    header = b"IHDR" + struct.pack(">II", width, height) + b"\1" + bytes(4)
    whole = saved(Image.new("1", (1, 1)))
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def test_a_picture_may_have_so_many_pixels(client):
    assert demo_pictures.PIXELS == 16_000_000
    assert client.post("/see", data=saved(Image.new("1", (4000, 4000)))).status_code == 200
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1)]
    tags += [(322, 16_000), (323, 16_000), (324, 200), (325, 9)]  # a tile larger than its picture
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    tiles = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(200)
    for content, said in (
        (
            announcing(4001, 4000),
            "announces 4001x4000 pixels; scale it down to at most 16,000,000 ",
        ),
        (announcing(12_000, 12_000), "announces 12000x12000 pixels; scale it down"),
        (announcing(2**31 - 1, 2**31 - 1), "pixels; scale it down"),
        (tiles, "announces 16000x16000 pixels; scale it down"),
    ):
        answer = client.post("/see", data=content)
        assert answer.status_code == 400
        assert said in answer.json["error"]


def test_the_page_runs_no_text_that_is_not_its_own(client, network):
    text = client.get("/").text
    policy = client.get("/").headers["Content-Security-Policy"]
    for kind in ("script", "style"):
        [code] = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for directive in ("default-src 'none'", "img-src data: blob:", "connect-src 'self'"):
        assert directive in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document.write|eval|style=", text)
    for answer in (client.get("/"), client.post("/see"), client.get("/nothing")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
    named = types.SimpleNamespace(name="<script>alert(1)</script>")
    page = demo.make_app(stub(config=types.SimpleNamespace(model=named, dataset=named)))
    assert "<script>alert" not in page.test_client().get("/").text
    answer = client.put("/see")
    assert (answer.status_code, list(answer.json)) == (405, ["error"])
    assert "POST" in answer.headers["Allow"]


def test_of_many_classes_the_likeliest_are_named():
    names = tuple(map(str, range(1000)))
    network = stub(probabilities=np.linspace(0, 1, 1000), class_names=names)
    seen = demo_view.look(network, np.zeros((28, 28, 1), np.uint8))
    assert [name for name, *_ in seen["classes"]] == list(names[:-21:-1])


def test_maps_that_are_not_finite_are_shown(recwarn):
    row = [[-1, np.nan, 0, np.inf, 1, -np.inf]]
    values = np.stack([np.float32(row), np.full((1, 6), np.nan, np.float32)], -1)
    values = np.concatenate([values, np.full((1, 6, 1), 7, np.float32)], -1)
    extreme = np.float32([[-3e38, 3e38]])[..., None]
    network = stub(maps={"a": values[None], "b": extreme[None]}, probabilities=(np.nan, 0.5))
    answer = demo.make_app(network).test_client().post("/see", data=saved(GRAY))
    assert answer.status_code == 200
    seen = json.loads(answer.text, parse_constant=pytest.fail)  # NaN is no JSON
    assert seen["classes"] == [["\u2028", 0.5, 1], ["<b>", None, 0]]
    first = [109, 255, 127, 254, 145, 0]  # of 0 to 254; 255 is gray
    assert pixels_of(seen["layers"][0]["picture"]).tolist() == [first + [255] * 6 + [254] * 6]
    assert colors_of(seen["layers"][0]["picture"])[0, 1].tolist() == [0x66] * 3
    assert seen["layers"][0]["scale"] == 7
    assert pixels_of(seen["layers"][1]["picture"]).tolist() == [[0, 254]]
    assert not recwarn.list


@pytest.mark.parametrize("channels", [2, 3, 4, 20])
def test_of_images_of_any_channels_is_shown_what_can_be_seen(channels):
    given = []
    network = stub((6, 8, channels), probabilities=(1, 0))
    network.feature_maps = lambda images: given.append(images) or {}
    answer = demo.make_app(network).test_client().post("/see", data=saved(GRAY))
    gray = np.asarray(GRAY)
    np.testing.assert_array_equal(given[0][0], np.stack([gray] * channels, -1))
    seen = pixels_of(answer.json["input"]["picture"])
    np.testing.assert_array_equal(seen, gray if channels == 2 else np.stack([gray] * 3, -1))
    assert answer.json["input"]["shape"] == [6, 8, channels]


def test_a_large_map_is_shown_coarser():
    maps = np.arange(1500 * 4, dtype=np.float32).reshape(1, 1500, 4, 1)
    answer = demo_view.look(stub(maps={"a": maps}), np.zeros((28, 28, 1), np.uint8))
    assert pixels_of(answer["layers"][0]["picture"]).shape == (500, 2)
    assert answer["layers"][0]["shape"] == [1500, 4, 1]


def test_a_network_that_fails_is_one_line(capsys):
    def fail(images):
        raise FloatingPointError("invalid value\nin jit")

    answer = demo.make_app(stub(feature_maps=fail)).test_client()
    answer = answer.post("/see", data=saved(GRAY))
    assert answer.status_code == 500
    said = "the network failed on the picture (FloatingPointError: invalid value)."
    assert answer.json == {"error": said}
    assert capsys.readouterr().err.count("\n") == 1


def test_one_picture_at_a_time_and_no_long_queue(monkeypatch):
    monkeypatch.setattr(demo, "WAITING", 3)
    inside, most, go_on = [], [], threading.Event()

    def look(images):
        inside.append(1)
        most.append(len(inside))
        go_on.wait(30)
        inside.pop()
        return np.float32([[1, 0]])

    app = demo.make_app(stub(probabilities=look))

    refusals = []

    def post(index):
        answer = app.test_client().post("/see", data=saved(GRAY))
        if answer.status_code == 503:
            refusals.append(answer)
        if len(refusals) == 4:  # all but one inside and three that wait
            go_on.set()
        return answer.status_code

    assert sorted(at_once(8, post)) == [200] * 4 + [503] * 4
    assert max(most) == 1
    assert int(refusals[0].headers["Retry-After"]) == demo.RETRY_SECONDS
    assert refusals[0].json["error"].endswith("try again in 2 seconds.")
    assert app.test_client().post("/see", data=saved(GRAY)).status_code == 200
    monkeypatch.setattr(demo, "WAIT_SECONDS", 0.05)
    refusals[:] = [None] * 3  # the next one ends the waiting
    go_on.clear()
    assert sorted(at_once(2, post)) == [200, 503]


DARK, LIGHT = {"border": [0.02, 0.03]}, {"border": [0.95, 0.03]}


@pytest.mark.parametrize(
    ("trained", "color", "invert", "seen", "done", "warning"),
    [
        (DARK, 250, "auto", 5, "is dark on light, and the network was trained on light", None),
        (DARK, 5, "auto", 5, None, None),
        (LIGHT, 5, "auto", 250, "is light on dark, and the network was trained on dark", None),
        (LIGHT, 250, "auto", 250, None, None),
        (DARK, 250, "", 250, None, "border is much lighter than those of the training"),
        (LIGHT, 5, "0", 5, None, "so the guess means little; try it inverted."),
        (DARK, 5, "1", 250, "The picture was inverted.", "try it inverted."),
        (DARK, 120, "auto", 120, None, "so the guess means little."),  # neither way
        ({"border": [0.5, 0.3]}, 250, "auto", 250, None, None),
        ({}, 250, "auto", 250, None, None),  # of an earlier version
    ],
)
def test_a_picture_is_inverted_where_that_makes_its_ground_like_the_training_images(
    trained, color, invert, seen, done, warning
):
    client = demo.make_app(stub(data=trained)).test_client()
    answer = client.post(f"/see?invert={invert}", data=saved(Image.new("L", (56, 56), color))).json
    assert (pixels_of(answer["input"]["picture"]) == seen).all()
    [found] = answer["done"] or [None]
    assert (done is None and found is None) or (done in found and "inverted." in found)
    assert (answer["warning"] is None) is (warning is None)
    assert warning is None or warning in answer["warning"]


def test_transparent_pictures_are_on_white_and_inverted():
    drawn = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (10, 10, 20, 20))
    answer = (
        demo.make_app(stub(data=DARK))
        .test_client()
        .post("/see?invert=auto", data=saved(drawn))
        .json
    )
    seen = pixels_of(answer["input"]["picture"])
    assert (seen[0, 0], seen[15, 15]) == (0, 255)
    assert "it was inverted" in answer["done"][0]


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_a_picture_is_fitted_as_in_training_unless_the_request_says_otherwise(fit):
    picture = Image.new("L", (40, 80))
    picture.paste(255, (0, 20, 40, 60))
    expected = np.asarray(pictures.resize(picture, (28, 28), fit))
    for own, query in ((fit, ""), ("stretch", f"?fit={fit}"), ("pad", f"?fit={fit}")):
        client = demo.make_app(stub(fit=own)).test_client()
        answer = client.post(f"/see{query}", data=saved(picture)).json
        np.testing.assert_array_equal(pixels_of(answer["input"]["picture"]), expected)
        [done] = answer["done"]
        assert done.startswith("The picture has 40×80 pixels: it")
        assert ("changes its proportions" in done) is (fit == "stretch")
    square = client.post("/see", data=saved(picture.resize((99, 100)))).json
    assert square["done"] == []


@pytest.mark.parametrize("query", ["invert=maybe", "fit=wide", "fit=" + "x" * 999])
def test_a_parameter_that_is_unknown_is_one_sentence(query):
    answer = demo.make_app(stub()).test_client().post(f"/see?{query}", data=saved(GRAY))
    assert answer.status_code == 400
    assert "is unknown; choose one of " in answer.json["error"]
    assert len(answer.json["error"]) < 300


def test_pictures_keep_their_proportions_where_the_training_images_had_their_size():
    for name, own, fit in (
        ("fashion_mnist", "stretch", "pad"),
        ("fashion_mnist_mini", "stretch", "pad"),
        ("own.npz", "stretch", "stretch"),
        ("./set:size=8,fit=crop", "crop", "crop"),
    ):
        settings = config.Config(dataset=config.DatasetConfig(name=name))
        assert demo_pictures.choose_fit(stub(config=settings, fit=own)) == fit


@pytest.mark.parametrize("kind", explanations.KINDS)
def test_what_speaks_for_a_class_is_shown_beside_how_to_read_it(client, mini, kind):
    body = png(mini.test_images[0][..., 0])
    answer = client.post(f"/explain?kind={kind}&layer=AvgPool_1&class=3", data=body)
    assert answer.status_code == 200, answer.text
    assert pixels_of(answer.json["picture"]).shape == (224, 224, 3)
    assert " d " in answer.json["caption"].replace(".", " ").replace(";", " ")


def test_occlusion_is_drawn_where_the_class_loses(network, mini):
    image = mini.test_images[0]
    label = int(network.probabilities(image[None])[0].argmax())
    size = 2
    compute = explanations.make_maps(network, "occlusion", "", size)
    values = np.asarray(compute(image[None], label))[0]
    prepared = network.preprocess(jnp.asarray(image[None]))
    asked = network.model, network.variables, prepared, jnp.asarray([label])
    np.testing.assert_allclose(values, attribution.occlusion(*asked, size)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("kind=x&layer=Conv_0&class=1", "kind='x' is unknown"),
        ("kind=grad_cam&layer=Conv_7&class=1", "layer='Conv_7' is unknown; did you mean"),
        ("kind=saliency&class=10", "there is no class 10; there are 10."),
        ("kind=saliency&class=-1", "there is no class -1"),
        ("kind=saliency", "there is no class -1"),
        ("", "kind='' is unknown"),
    ],
)
def test_what_cannot_be_explained_is_a_sentence(client, query, said):
    answer = client.post(f"/explain?{query}", data=saved(GRAY))
    assert answer.status_code == 400
    assert said in answer.json["error"]


def test_the_examples_of_the_docstrings_are_right():
    for module in (demo, demo_pictures, style):
        found = doctest.testmod(module)
        assert (found.failed, found.attempted > 0) == (0, True)
