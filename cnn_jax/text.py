"""Making other people's text (class names, file names, records) safe to show."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Invisible characters that change the direction of text.
_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Control characters, line separators, lone surrogates.
_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
_NAME = r"[\w.-]*(?:passw(?:or)?d|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|credentials?)"
_SECRETS = (
    # https://token@host; scheme://user:password@host, whose password may have any sign, @ too.
    (re.compile(r"(?P<keep>https?://)[^\s/:@]+@", re.I), r"\g<keep>***@"),
    (re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s'\"]*@", re.I), r"\g<keep>:***@"),
    # ?password=…, --token=…, TOKEN=…
    (re.compile(rf"(?P<keep>(?<![\w.]){_NAME}=)[^\s&;,'\"]+", re.I), r"\g<keep>***"),
)


def printable(text: str, keep: str = "\n\t") -> str:
    """Returns the text with what could control a terminal as escapes, such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_harmless(c) else _escape(c) for c in text)


def _is_harmless(character: str) -> bool:
    return character not in _DIRECTION and unicodedata.category(character) not in _CATEGORIES


def _escape(character: str) -> str:
    if character > "\x7f":
        return character.encode("ascii", "backslashreplace").decode()
    return f"\\x{ord(character):02x}"


def one_line(text: str) -> str:
    """Returns `printable` text in one line."""
    return printable(text, keep="")


def list_some(names: Sequence[str], most: int = 10) -> str:
    """Returns the names in one line, of many the first and how many there are.

    >>> list_some(["a", "b", "c"], most=2)
    'a, b, … (3 in all)'
    """
    shown = ", ".join(map(one_line, names[:most]))
    return shown + (f", … ({len(names):,} in all)" if len(names) > most else "")


def without_secrets(text: str) -> str:
    """Returns the text with passwords and tokens in URLs, options and variables as ***."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def command_without_secrets(arguments: Sequence[str]) -> list[str]:
    """Returns a command line without its secrets, also those in an argument of their own."""
    hidden = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = re.fullmatch(rf"--?{_NAME}", before, re.I) and not argument.startswith("-")
        hidden.append("***" if is_value else without_secrets(argument))
    return hidden


def find_nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the known name that is most like `name` in letters and digits, or None.

    >>> find_nearest("Fashion-MNIST", ["mnist", "fashion_mnist"])
    'fashion_mnist'
    """
    plain: dict[str, str] = {}
    for candidate in known:
        plain.setdefault(_letters(candidate), candidate)
    close = difflib.get_close_matches(_letters(name), plain, 1, cutoff)
    return plain[close[0]] if close else None


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
