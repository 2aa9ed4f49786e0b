"""Docstrings as mkdocstrings reads them.

Sphinx's roles become links, and what follows ``Example:`` a block of code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr):`(~?)([\w.]+)`")
PAGES = Path(__file__).parent / "pages"


def documented() -> dict[str, str]:
    """What the pages document, by its last name."""
    found = (
        re.findall(r"^::: (\S+)$", p.read_text(), re.M) for p in PAGES.rglob("*.md")
    )
    return {name.rpartition(".")[2]: name for names in found for name in names}


def links(text: str, public: dict[str, str], owner: str = "") -> str:
    """The text with its roles as links; what no page documents becomes code.

    Args:
        text: Of a docstring.
        public: What the pages document, by its last name.
        owner: The class whose docstring it is, or whose method's, for names of methods.
    """

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        last = name.rpartition(".")[2]
        shown = last if short else name
        other = "." in name and not name.startswith("torchrl_moawm")
        target = public.get(last) or (f"{owner}.{name}" if owner else "")
        if other or not target:
            return f"`{shown}`"
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Changes every docstring of the package before it is parsed."""

    def __init__(self) -> None:
        """Reads the pages once."""
        self.public = documented()

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Turns the roles of one object's docstring into links."""
        if obj.docstring is not None:
            around = obj if obj.is_class or obj.is_module else obj.parent
            owner = around.path if around.is_class else ""
            text = obj.docstring.value
            text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
            obj.docstring.value = links(text, self.public, owner)
