"""Class names: made harmless when they are read, and matched with what a person writes."""

import unicodedata
from collections.abc import Iterable, Sequence

from cnn_jax import text
from cnn_jax.errors import DataError


def clean(names: Iterable[str], origin: str) -> tuple[str, ...]:
    """Returns the names, each in one line, without what could control a terminal.

    Raises:
      DataError: two names are then the same.
    """
    cleaned = tuple(map(text.one_line, names))
    seen: set[str] = set()
    for name in cleaned:
        if name in seen:
            raise DataError(f"{origin}: two classes have the name {name!r}; rename one of them.")
        seen.add(name)
    return cleaned


def match_class(name: str, class_names: Sequence[str]) -> int | None:
    """Returns the label of the class with this name, or None.

    Without an exact match, the only name with the same letters and digits, of any case, counts.

    >>> match_class("t_shirt_top", ["Trouser", "T-shirt/top"])
    1

    Raises:
      DataError: only letters and digits agree, and with several classes.
    """
    for written in (name, text.one_line(name)):
        if written in class_names:
            return list(class_names).index(written)
    letters = _letters(name)
    near = [i for i, other in enumerate(class_names) if letters and _letters(other) == letters]
    if len(near) > 1:
        several = ", ".join(repr(class_names[i]) for i in near)
        raise DataError(
            f"{text.one_line(name)!r} could be each of the classes {several}; write the name "
            "exactly."
        )
    return near[0] if near else None


def _letters(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())
