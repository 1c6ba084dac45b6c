"""Mutation testing: what is mutated, and that its table is up to date."""

import tomllib

from tests import mutants

SOURCE = '''"""Adds up."""
import functools

# How many.
LEAST = 2
Total = Callable[[list[int]], int]


@functools.cache
def total(values: list[int] | None, by: int = 1) -> int:
    """Returns the sum."""
    if not values or len(values) < LEAST:
        raise ValueError(f"give {LEAST + 1} values.")
    pairs = zip(values, values, strict=True)
    values.sort()
    return sum(a * by for a, _ in pairs)
'''


def test_mutants_are_one_small_change_each_and_leave_text_types_and_decorators_alone():
    made = mutants.make_mutants(SOURCE)
    diffs = [(mutant.line, *mutant.diff.split("\n")) for mutant in made]
    guard = "- if not values or len(values) < LEAST:"
    for expected in (
        (5, "- LEAST = 2", "+ LEAST = None"),
        (5, "- LEAST = 2", "+ LEAST = 3"),
        (12, guard, "+ if values or len(values) < LEAST:"),
        (12, guard, "+ if not values and len(values) < LEAST:"),
        (12, guard, "+ if not values or len(values) <= LEAST:"),
        (15, "- values.sort()", "+ pass"),
        (16, "- return sum(a * by for a, _ in pairs)", "+ return sum(a / by for a, _ in pairs)"),
    ):
        assert expected in diffs
    assert sorted({line for line, *_ in diffs}) == [5, 10, 12, 14, 15, 16]
    zipped = [new for line, _, new in diffs if line == 14]
    assert all("strict=True" in new for new in zipped if "zip(" in new)
    assert len({mutant.code for mutant in made} | {SOURCE}) == len(made) + 1
    for mutant in made:
        compile(mutant.code, "mutant", "exec")
        removed, added = (set(code.splitlines()) for code in (SOURCE, mutant.code))
        assert len(removed - added) == 1


def test_the_table_names_files_and_lines_that_there_are():
    table = tomllib.loads((mutants.ROOT / "tests" / "mutants.toml").read_text())
    for module, entry in table.items():
        source = (mutants.ROOT / module).read_text()
        lines = [f"- {line.strip()}" for line in source.splitlines()]
        assert all((mutants.ROOT / test).is_file() for test in entry.get("tests", []))
        for equivalent in entry.get("equivalent", []):
            assert equivalent["why"].endswith(".")
            old = [line for line in equivalent["diff"].strip().splitlines() if line[0] == "-"]
            assert set(old) <= set(lines), (module, old)
