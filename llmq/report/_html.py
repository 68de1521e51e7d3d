"""Markup that cannot be broken by input: text is escaped unless it is already :class:`Html`.

Every name in a report (classes, engines, policies, paths) comes from input. A plain string becomes
text wherever it stands, in an element or in an attribute; only :func:`tag` and its kin make
:class:`Html`. Figures are taken apart and put together again as elements, their ids made unique and
their ink given to the style sheet, so that they follow a dark page.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmq.plot._canvas import CONTROL, GRID, INK

__all__ = ["Html", "data_block", "inline_svg", "page", "sentence", "table", "tag", "text"]

_VOID = ("meta", "br")
_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_COLOURS = {INK: "var(--ink)", GRID: "var(--line)"}


class Html(str):
    """Markup, not to be escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    r"""Return a value as text.

    Examples
    --------
    >>> text('<b title="x">'), text(Html("<b>"))
    ('&lt;b title=&quot;x&quot;&gt;', '<b>')
    """
    if isinstance(value, Html):
        return value
    return Html(html.escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Examples
    --------
    >>> tag("p", "a < b", tag("br"), class_="note")
    '<p class="note">a &lt; b<br></p>'
    """
    given = {key.rstrip("_").replace("_", "-"): v for key, v in attributes.items() if v is not None}
    words = [name, *(f'{key}="{text(value)}"' for key, value in given.items())]
    start = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(start)
    return Html(f"{start}{''.join(text(child) for child in children)}</{name}>")


def sentence(words: str) -> str:
    """Return words with a capital and without their full stop.

    Examples
    --------
    >>> sentence("the slots bind.")
    'The slots bind'
    """
    return words[:1].upper() + words[1:].rstrip(".")


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1
) -> Html:
    """Return a table with a caption and scoped headers."""
    # The roles keep it a table to a screen reader where the style sheet stacks its cells.
    names = (tag("th", name, scope="col", role="columnheader") for name in header)
    head = tag("tr", *names, role="row")
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", role="rowheader"),
            *(_cell(header[i], x, number=i >= words) for i, x in enumerate(row) if i),
            role="row",
        )
        for row in rows
    ]
    parts = tag("thead", head, role="rowgroup"), tag("tbody", *body, role="rowgroup")
    whole = tag("table", tag("caption", caption), *parts, role="table")
    return tag("div", whole, class_="wide", role="region", aria_label=caption, tabindex=0)


def _cell(column: str, value: object, *, number: bool) -> Html:
    kind = "number" if number else None
    return tag("td", value, class_=kind, role="cell", data_label=column)


def inline_svg(svg: str, name: str, description: str) -> Html:
    """Return a figure as an element of the page."""
    import xml.etree.ElementTree as ET

    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in [one for one in parent if one.tag.endswith("}style")]:
            parent.remove(child)  # its two rules are in the page's style sheet
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        element.attrib = {
            key.split("}")[-1]: _attribute(key.split("}")[-1], value, name)
            for key, value in element.attrib.items()
        }
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": CONTROL.sub(" ", description)}
    return Html(ET.tostring(root, encoding="unicode").strip())


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, variable)
    return value


def data_block(name: str, values: Any) -> Html:
    r"""Return JSON values as a data block of the page.

    Examples
    --------
    >>> data_block("x", {"a": "</script>"})
    '<script type="application/json" id="x">{"a": "\\u003c/script\\u003e"}</script>'
    """
    raw = json.dumps(values, allow_nan=False)
    for mark in "<>&":
        raw = raw.replace(mark, f"\\u{ord(mark):04x}")
    return tag("script", Html(raw), type="application/json", id=name)


def page(title: str, *parts: object) -> str:
    """Return a whole page: one file that fetches nothing and runs nothing."""
    style = Html(_STYLE.read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", tag("main", *parts))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
