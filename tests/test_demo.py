"""The local page: what it answers, and what it refuses."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, train, trained
from cnn_jax.display import Silent
from tests import commands

demo = commands.load("demo")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "run"
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=100),
        model=config.ModelConfig(name="lenet", channels=(3, 20)),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=50,
    )
    train.train_and_evaluate(settings, path, Silent())
    return trained.load(path)


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


def test_the_page_names_the_run(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "<h1>lenet on fashion_mnist_mini</h1>" in page.text
    assert "TITLE" not in page.text


def test_a_picture_is_seen_as_the_network_sees_it(client, network, mini):
    image = mini.test_images[0]
    answer = client.post("/see", data=png(image[..., 0])).json
    probabilities = network.probabilities(image[None])[0]
    assert [name for name, _ in answer["classes"]] == [
        network.class_names[i] for i in np.argsort(-probabilities)
    ]
    assert answer["classes"][0][1] == pytest.approx(probabilities.max(), abs=1e-5)
    convolutions = ["Conv_0", "Conv_0/sigmoid", "AvgPool_0", "Conv_1", "Conv_1/sigmoid"]
    names = ["input", *convolutions, "AvgPool_1"]
    assert [layer["name"] for layer in answer["layers"]] == names
    assert [layer["shape"] for layer in answer["layers"]][2:4] == [[28, 28, 3], [14, 14, 3]]
    np.testing.assert_array_equal(pixels_of(answer["layers"][0]["picture"]), image[..., 0])
    first = network.feature_maps(image[None])["Conv_0"][0, :, :, 0]
    shown = pixels_of(answer["layers"][1]["picture"])[:, :28]
    expected = 255 * (first - first.min()) / np.ptp(first)
    np.testing.assert_allclose(shown, expected, atol=1)
    assert pixels_of(answer["layers"][4]["picture"]).shape == (10, 16 * 11)  # the first 16 of 20


def test_other_sizes_forms_and_dark_on_light(client, mini):
    image = mini.test_images[1, :, :, 0]
    large = np.asarray(Image.fromarray(255 - image).resize((100, 60)).convert("RGB"))
    upload = {"picture": (io.BytesIO(png(large, "JPEG")), "shirt.jpg")}
    body = png(image)
    for kind in ("image/png", "application/x-www-form-urlencoded"):  # the latter is curl's
        assert client.post("/see", data=body, content_type=kind).status_code == 200
    answer = client.post("/see?invert=1", data=upload, content_type="multipart/form-data")
    assert answer.status_code == 200
    seen = pixels_of(answer.json["layers"][0]["picture"])
    assert np.corrcoef(seen.ravel(), image.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the picture is not a picture"),
        (b"<svg onload='alert(1)'/>", "the picture is not a picture"),
        (
            png(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8))[:200],
            "the picture is truncated or damaged",
        ),
    ],
)
def test_what_is_no_picture_is_one_sentence(client, content, expected):
    answer = client.post("/see", data=content)
    assert answer.status_code == 400
    assert expected in answer.json["error"]
    assert "\n" not in answer.json["error"]


def test_too_many_bytes_or_pixels_and_other_hosts_are_refused(client):
    answer = client.post("/see", data=b"x" * (demo.UPLOAD_BYTES + 1))
    assert (answer.status_code, answer.json) == (
        413,
        {"error": "a picture may have at most 8,000,000 bytes."},
    )
    bomb = png(np.zeros((12000, 12000), np.uint8))
    assert len(bomb) < 200_000
    answer = client.post("/see", data=bomb)
    assert answer.status_code == 400
    assert "the picture announces 12000x12000 pixels" in answer.json["error"]
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
