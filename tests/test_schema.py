"""Values and their types: what is said of each that is wrong."""

import json
import pathlib
import typing
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from cnn_jax import files, schema
from cnn_jax.errors import RunDirectoryError


class Inner(TypedDict, total=False):
    sizes: list[int]


class Outer(TypedDict):
    name: str
    inner: NotRequired[Inner | None]
    rate: float


GOOD = {"name": "x", "rate": 1}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (object(), Any),
        (3, int),
        (3, float),
        (3.5, float),
        (True, bool),
        ("", str),
        (None, None),
        (None, type(None)),
        (None, int | None),
        (3, int | None),
        (3, typing.Optional[int]),  # noqa: UP045
        ("a", Literal["a", "b"]),
        ({}, dict[str, int]),
        ({"a": 1}, dict[str, int]),
        ([], list[int]),
        ([1, 2, 3], list[int]),
        ([1, 2.5], tuple[float, ...]),
        ((1, "x"), tuple[int, str]),
        ([1, "x"], tuple[int, str]),
        (GOOD, Outer),
        ({**GOOD, "more": object()}, Outer),
        ({**GOOD, "inner": None}, Outer),
        ({**GOOD, "inner": {"sizes": [1]}}, Outer),
        ({}, Inner),
    ],
)
def test_values_of_the_type(value, hint):
    assert schema.find_problem(value, hint) is None
    assert schema.is_a(value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "problem"),
    [
        (True, int, "k is True, where int is expected"),
        (False, float, "k is False, where float is expected"),
        (1.0, int, "k is 1.0, where int is expected"),
        ("1", float, "k is '1', where float is expected"),
        (1, str, "k is 1, where str is expected"),
        (1, bool, "k is 1, where bool is expected"),
        (0, None, "k is 0, where None is expected"),
        (None, str, "k is None, where str is expected"),
        ("c", Literal["a", 2], "k is 'c', where 'a' or 2 is expected"),
        ("x", int | None, "k is 'x', where int | None is expected"),
        ([1, "x"], list[int] | None, "k[1] is 'x', where int is expected"),
        ([1, "x"], int | list[int] | list[float], "k[1] is 'x', where int is expected"),
        ("x", list[int] | None, "k is 'x', where list[int] | None is expected"),
        ([], dict[str, int], "k is [], where dict[str, int] is expected"),
        ({"a": 1, "b": "x"}, dict[str, int], "k.b is 'x', where int is expected"),
        ({}, list[int], "k is {}, where list[int] is expected"),
        ("abc", list[str], "k is 'abc', where list[str] is expected"),
        ([0, None], list[float], "k[1] is None, where float is expected"),
        ([0, None], tuple[float, ...], "k[1] is None, where float is expected"),
        ([1], tuple[int, str], "k is [1], where tuple[int, str] is expected"),
        ([1, 2, 3], tuple[int, str], "k is [1, 2, 3], where tuple[int, str] is expected"),
        ([1, 2], tuple[int, str], "k[1] is 2, where str is expected"),
        ([["x"]], list[list[int]], "k[0][0] is 'x', where int is expected"),
        ([], Outer, "k is [], where an object is expected"),
        ({"rate": 1.0}, Outer, "k.name is missing"),
        ({"inner": 3}, Outer, "k.name is missing"),
        ({"name": "x"}, Outer, "k.rate is missing"),
        ({**GOOD, "rate": "1"}, Outer, "k.rate is '1', where float is expected"),
        ({**GOOD, "inner": 3}, Outer, "k.inner is 3, where an object | None is expected"),
        (
            {**GOOD, "inner": {"sizes": [1, True]}},
            Outer,
            "k.inner.sizes[1] is True, where int is expected",
        ),
        (0, list[Any], "k is 0, where list[Any] is expected"),
    ],
)
def test_what_is_wrong_begins_with_its_key(value, hint, problem):
    assert schema.find_problem(value, hint, "k") == problem
    assert not schema.is_a(value, hint)


def test_keys_at_the_top_and_odd_ones():
    assert schema.find_problem({"a": "x"}, dict[str, int]) == "a is 'x', where int is expected"
    assert schema.find_problem({"name": 1, "rate": 1}, Outer) == "name is 1, where str is expected"
    assert schema.find_problem({}, Outer) == "name is missing"
    assert schema.find_problem("x", int) == "it is 'x', where int is expected"
    assert schema.find_problem("x", int | None) == "it is 'x', where int | None is expected"
    assert schema.find_problem({"a\n": 1}, dict[str, str]) == "a\\x0a is 1, where str is expected"


def test_types_are_named_as_a_person_writes_them():
    hints = [None, bool, Any, Outer, tuple[int, ...], list[int | None], Literal["a"], int | None]
    assert list(map(schema.type_name, hints)) == [
        *("None", "bool", "Any", "an object", "tuple[int, ...]", "list[int | None]"),
        *("'a'", "int | None"),
    ]


def test_values_are_shown_in_one_short_line():
    assert schema.show("a\u2028\x1b") == "'a\\u2028\\x1b'"
    assert schema.show("x" * 58) == f"'{'x' * 58}'"
    assert schema.show("x" * 59) == f"'{'x' * 56}…"
    assert schema.show(10**5000) == "a number of thousands of digits"


FILE = pathlib.Path("run", "a.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true, "é"]}', {"a": [1, 2.5, None, True, "é"]}),
        (str(2**63 - 1), 2**63 - 1),
        (str(1 - 2**63), 1 - 2**63),
        ("-1e308", -1e308),
    ],
)
def test_json_that_is_read(text, value):
    assert schema.parse_json(text.encode(), Any, FILE) == value
    assert schema.parse_json(text, Any, FILE) == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"a": NaN}', "it holds NaN, which is no number of JSON"),
        ('{"a": -Infinity}', "it holds -Infinity, which is no number of JSON"),
        ("1e400", "the number 1e400 in it is out of range"),
        (str(2**63), f"the number {2**63} in it is out of range"),
        (str(-(2**63)), f"the number {-(2**63)} in it is out of range"),
        ("9" * 5000, f"the number {'9' * 20} in it is out of range"),
        ("1" * 21 + ".5e999", f"the number {'1' * 20} in it is out of range"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"a": 1}', "a is 1, where str is expected"),
        ("[]", "it is [], where dict[str, str] is expected"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_json_that_is_refused(tmp_path, content, problem):
    with pytest.raises(RunDirectoryError) as error:
        schema.parse_json(content, dict[str, str], FILE, "line 7: ")
    assert str(error.value) == f"{FILE} can't be read: line 7: {problem}."
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RunDirectoryError) as error:
        schema.read_json(tmp_path / "a.json", dict[str, str])
    assert str(error.value) == f"{tmp_path / 'a.json'} can't be read: {problem}."


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(RunDirectoryError, match=r"a\.json can't be read: .*utf-8.* can't decode"):
        schema.parse_json(b"\xff", Any, FILE)


def test_files_of_records_are_read_to_their_limit(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    with pytest.raises(RunDirectoryError) as error:
        schema.read_json(file, Any)
    assert str(error.value) == f"{file} can't be read: No such file or directory."
    file.write_text(json.dumps({"a": "b"}))
    assert schema.read_json(file, dict[str, str]) == {"a": "b"}
    assert schema.read_record(file) == b'{"a": "b"}'
    asked = []
    monkeypatch.setattr(files, "read_bytes", lambda path, most: asked.append((path, most)))
    schema.read_record(file)
    assert asked == [(file, 256 * 2**20)]
