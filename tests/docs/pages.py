"""The pages of the documentation, as its tests read them."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "pages"


def names():
    """Every page by its path below ``docs/pages``."""
    return sorted(path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md"))


def read(page):
    return (PAGES / page).read_text()


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def directives():
    """What the pages ask mkdocstrings to document, once for each time."""
    return [name for page in names() for name in re.findall(r"^::: (\S+)$", read(page), re.M)]
