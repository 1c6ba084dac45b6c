"""A page that shows the figures in a folder, each with a sentence on how to read it."""

import html
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

from cnn_jax import files
from cnn_jax.text import printable

PAGE = "index.html"
FORMATS = (".png", ".svg")
MARK = '<meta name="generator" content="cnn_jax.figures.gallery">'  # only such pages are replaced
STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
nav a { margin-right: 1rem; }
figure { margin: 0 0 2rem; }
img { max-width: 100%; background: #fff; padding: .5rem; border-radius: .3rem;
  box-sizing: border-box; }
figcaption { max-width: 40rem; }
"""


class Section(NamedTuple):
    """What the page says of a kind of figure."""

    heading: str
    reading: str  # how to read it: one sentence


def find_figures(folder: pathlib.Path, kind: str) -> list[pathlib.Path]:
    """Returns the files of a kind, as kernels.png or activations_coat.svg, ordered by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in FORMATS
        and (file.stem == kind or file.stem.startswith(f"{kind}_"))
        and file.is_file()
    )


def write_gallery(
    folder: pathlib.Path, title: str, sections: Mapping[str, Section]
) -> pathlib.Path | None:
    """Writes PAGE for the figures in a folder, by kind, in the order of `sections`.

    Returns:
      The page; None if there is another page of that name, which is left as it is.

    Raises:
      RunDirectoryError: the system refused to write it.
    """
    page = folder / PAGE
    if page.exists() and not _is_ours(page):
        return None
    found = {kind: find_figures(folder, kind) for kind in sections}
    parts = [(kind, sections[kind], figures) for kind, figures in found.items() if figures]
    links = "\n".join(f'<a href="#{kind}">{about.heading}</a>' for kind, about, _ in parts)
    shown = html.escape(printable(title, keep=""))
    body = "\n".join(_write_section(kind, about, figures) for kind, about, figures in parts)
    files.write_text(
        page,
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{shown}</h1>\n"
        f"<nav>\n{links}\n</nav>\n{body}\n</body>\n</html>\n",
    )
    return page


def _is_ours(page: pathlib.Path) -> bool:
    try:
        with files.open_regular(page) as stream:
            return MARK.encode() in stream.read(1000)
    except OSError:
        return False


def _write_section(kind: str, about: Section, figures: list[pathlib.Path]) -> str:
    parts = []
    for stem in dict.fromkeys(file.stem for file in figures):
        first, *others = [file for file in figures if file.stem == stem]
        of = stem.removeprefix(kind).strip("_").replace("_", " ")
        name = html.escape(about.heading + (f": {of}" if of else ""))
        more = "".join(f' <a href="{_link(o)}">As {o.suffix[1:].upper()}.</a>' for o in others)
        parts.append(
            f'<figure>\n<a href="{_link(first)}"><img src="{_link(first)}" alt="{name}" '
            f'loading="lazy"></a>\n<figcaption>{html.escape(about.reading)}{more}</figcaption>\n'
            "</figure>"
        )
    body = "\n".join(parts)
    return f'<section id="{kind}">\n<h2>{html.escape(about.heading)}</h2>\n{body}\n</section>'


def _link(file: pathlib.Path) -> str:
    return urllib.parse.quote(file.name)
