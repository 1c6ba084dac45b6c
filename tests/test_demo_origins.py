"""The demo page answers itself and programs, under this machine's names; no other site's page."""

import socket

import pytest

from tests import commands
from tests.demo_pages import GRAY, saved, stub

demo = commands.load("demo")
OWN = "http://localhost"  # the origin of the test client


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({}, True),  # curl
        ({"Origin": OWN}, True),
        ({"Origin": OWN + ":80"}, True),
        ({"Origin": "HTTP://LOCALHOST"}, True),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin", "Referer": OWN + "/"}, True),
        ({"Referer": OWN + "/?a=b"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://[::1]:5000", "Host": "[::1]:5000"}, True),
        ({"Origin": "http://127.0.0.1:5000", "Host": "127.0.0.1:5000"}, True),
        ({"Origin": "http://elsewhere.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "file://"}, False),
        ({"Origin": "https://localhost"}, False),
        ({"Origin": OWN + ":5001"}, False),
        ({"Origin": OWN + ".elsewhere.example"}, False),
        ({"Origin": "http://localhost@elsewhere.example"}, False),
        ({"Origin": "http://elsewhere.example, http://localhost"}, False),
        ({"Origin": "http://127.0.0.1"}, False),  # as another name's page is another origin
        ({"Origin": "http://[::1]:5001", "Host": "[::1]:5000"}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Origin": OWN, "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Referer": OWN}, False),
        ({"Referer": "http://elsewhere.example/http://localhost/"}, False),
        ({"Referer": "https://localhost/"}, False),
        ({"Referer": "nonsense"}, False),
    ],
)
def test_only_the_page_itself_may_send_pictures(headers, accepted):
    client = demo.make_app(stub()).test_client()
    for kind in ("text/plain", "image/png"):
        answer = client.post("/see", data=saved(GRAY), headers=headers, content_type=kind)
        assert answer.status_code == (200 if accepted else 403)
        assert ("error" in answer.json) is not accepted


MACHINE = socket.gethostname().lower()


@pytest.mark.parametrize(
    ("host", "served", "refused"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1:5000", "localhost:5000", "LOCALHOST.", "[::1]:5000"],
            ["1.2.3.4"],
        ),
        ("localhost", ["localhost:5000", "127.0.0.1", "[::1]"], ["localhost.elsewhere.example"]),
        ("::1", ["[::1]:5000", "[0:0:0:0:0:0:0:1]:5000", "localhost"], ["[::2]", "::1", "[::1"]),
        ("127.0.0.2", ["127.0.0.2:5000", "localhost"], ["127.0.0.3"]),
        ("0.0.0.0", ["0.0.0.0:5000", "192.168.1.7:5000", f"{MACHINE}:5000", "localhost"], []),
        ("::", ["[::]", "[fd00::7]:5000", f"{MACHINE.partition('.')[0]}.local:5000"], []),
        ("box.example", ["box.example:5000", "Box.Example", "10.0.0.7"], ["other.example"]),
    ],
)
def test_names_that_are_not_the_machines_are_refused(host, served, refused):
    client = demo.make_app(stub(), host).test_client()
    for name in served:
        assert client.get("/", headers={"Host": name}).status_code == 200, name
    odd = ["", "localhost:x", "localhost:99999", "a@localhost", "localhost/", "localhost,localhost"]
    for name in [*refused, *odd, "elsewhere.example", "elsewhere.example:5000"]:
        for path in ("/", "/see", "/nothing"):
            answer = client.get(path, headers={"Host": name})
            assert answer.status_code == 400, name
            assert "this page isn't served as" in answer.json["error"]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000"),
        ("localhost", "http://localhost:5000"),
        ("::1", "http://[::1]:5000"),
        ("0.0.0.0", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("box.example", "http://box.example:5000"),
    ],
)
def test_the_address_that_is_announced_can_be_opened(host, address):
    line = demo.announcement(host, 5000)
    assert line.startswith(f"open {address} in a browser")
    assert (f"or http://{socket.gethostname()}:5000 on another" in line) is (host in "0.0.0.0 ::")
    client = demo.make_app(stub(), host).test_client()
    headers = {"Host": address.removeprefix("http://"), "Origin": address}
    assert client.get("/", headers=headers).status_code == 200
    assert client.post("/see", data=saved(GRAY), headers=headers).status_code == 200
