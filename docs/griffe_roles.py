"""Docstrings as mkdocstrings reads them.

Sphinx's roles become links, and what follows ``Example:`` a block of code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr):`(~?)([\w.]+)`")


def links(text: str, place: str = "") -> str:
    """The text with its roles as links; names of other libraries become code.

    Args:
        text: Of a docstring.
        place: Where it stands, for names without a module.
    """

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rpartition(".")[2] if short else name
        if not name.startswith("torchrl_moawm") and "." in name:
            return f"`{shown}`"
        target = name if name.startswith("torchrl_moawm") else f"{place}.{name}"
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Changes every docstring of the package before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Turns the roles of one object's docstring into links."""
        if obj.docstring is not None:
            around = obj.parent if obj.is_function else obj
            place = around.path if around.is_class else around.module.path
            text = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M
            )
            obj.docstring.value = links(text, place)
