"""Pages from templates: what comes from input is text, wherever a template writes it.

Every name in a report (classes, engines, policies, paths) comes from input. Jinja escapes it, in an
element or in an attribute; control characters are replaced first. Figures are taken apart and put
together again as elements, their ids made unique and their ink given to the style sheet, so that
they follow a dark page.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmq.plot._canvas import CONTROL, GRID, INK

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["inline_svg", "markup", "render", "sentence"]

_FOLDER = Path(__file__).parent
_COLOURS = {INK: "var(--ink)", GRID: "var(--line)"}


@functools.cache
def _environment() -> Environment:
    """Return what renders every page."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return found


def _visible(value: object) -> object:
    """Replace control characters, which no page may hold."""
    if value is None or hasattr(value, "__html__"):
        return value
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))


def render(template: str, **values: Any) -> str:
    """Return a whole page: one file that fetches nothing and runs nothing."""
    from markupsafe import Markup

    style = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(style=style, **values) + "\n"


def markup(form: str, *values: object) -> Markup:
    """Return markup with values as text.

    Examples
    --------
    >>> str(markup('<b title="{}">{}</b>', 'a"', "<i>"))
    '<b title="a&#34;">&lt;i&gt;</b>'
    """
    from markupsafe import Markup

    return Markup(form).format(*map(_visible, values))


def sentence(words: str) -> str:
    """Return words with a capital and without their full stop.

    Examples
    --------
    >>> sentence("the slots bind.")
    'The slots bind'
    """
    return words[:1].upper() + words[1:].rstrip(".")


def inline_svg(svg: str, name: str, description: str) -> Markup:
    """Return a figure as an element of the page."""
    import xml.etree.ElementTree as ET

    from markupsafe import Markup

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
    return Markup(ET.tostring(root, encoding="unicode").strip())


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, variable)
    return value
