"""What the site takes from elsewhere in the repository, and its formulas.

- Pages under ``benchmarks/`` that scripts write, or that belong beside the code, are
  copied in (``COPIES``), and so are the pictures of ``benchmarks/results``. Their links
  are mapped.
- ``{{ table PATH }}`` stands for the first table of a Markdown file of the repository.
- Formulas between ``$`` become MathML, which browsers show without any script.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = "docs/pages/"

COPIES = {
    "benchmarks/README.md": "benchmarks/running.md",
    "benchmarks/partners.md": "benchmarks/partners.md",
    "benchmarks/partners_settings.md": "benchmarks/partners_settings.md",
    "benchmarks/scale.md": "benchmarks/scale.md",
    "benchmarks/environments.md": "benchmarks/environments.md",
    "benchmarks/cost/cost.md": "benchmarks/cost_table.md",
    "benchmarks/results/study/study.md": "benchmarks/study_tables.md",
    "benchmarks/results/partners/partners.md": "benchmarks/partners_tables.md",
    "benchmarks/results/scale/returns.md": "benchmarks/scale_returns.md",
    "benchmarks/results/scale/speed.md": "benchmarks/scale_speed.md",
}
"""Pages of the site by the file that they are copied from."""

INSTEAD = {
    "tests/faults/README.md": "faults.md",
}
"""Pages of the site by what a copied page links to."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")


def pictures() -> dict[str, str]:
    """Pictures of the results by their place, the same in site and repository."""
    found = (
        p for end in ("png", "gif") for p in ROOT.glob(f"benchmarks/results/**/*.{end}")
    )
    return {path.relative_to(ROOT).as_posix(): str(path) for path in sorted(found)}


def on_files(files: Files, config: Any) -> Files:
    """Adds the copied pages and the pictures."""
    for source, page in COPIES.items():
        text = links_of_site((ROOT / source).read_text(), source, page)
        if not text.startswith("# "):
            text = f"# {titles(config['nav'])[page]}\n\n{text}"
        text = f"---\nhide: [toc]\n---\n\n{text}"  # room for wide tables
        files.append(File.generated(config, page, content=text))
    for place, path in pictures().items():
        files.append(File.generated(config, place, abs_src_path=path))
    return files


def titles(nav: Any) -> dict[str, str]:
    """The title of each page of the navigation that has one."""
    if isinstance(nav, list):
        return {page: title for part in nav for page, title in titles(part).items()}
    if not isinstance(nav, dict):
        return {}
    ((title, part),) = nav.items()
    return {part: title} if isinstance(part, str) else titles(part)


def links_of_site(text: str, source: str, page: str) -> str:
    """The text of a file with the site's links; those that lead out are undone."""

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        file, _, heading = target.partition("#")
        if not file:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        place = (
            INSTEAD.get(f"{path}#{heading}") or INSTEAD.get(path) or COPIES.get(path)
        )
        if place is None and path.startswith(PAGES):
            place = path.removeprefix(PAGES)
        if place is None and path in pictures():
            place = path
        if place is None:
            return words
        kept = f"#{heading}" if heading and f"{path}#{heading}" not in INSTEAD else ""
        place = posixpath.relpath(place, posixpath.dirname(page))
        return f"{mark}[{words}]({place}{kept})"

    return LINK.sub(link, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts the tables in, and the links of the site for those of the repository."""
    place = page.file.src_uri
    if place not in COPIES.values():
        markdown = links_of_site(markdown, PAGES + place, place)
    return re.sub(
        r"\{\{ table (\S+) \}\}", lambda match: first_table(match[1]), markdown
    )


def first_table(path: str) -> str:
    """The first table of a Markdown file of the repository."""
    lines = (ROOT / path).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = lines[start:]
    end = next(
        (i for i, line in enumerate(rows) if not line.startswith("|")), len(rows)
    )
    return "\n".join(rows[:end])


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML; a picture of the results leads to itself, in its own size."""
    content = re.sub(
        r'<img [^>]*src="([^"]*results/[^"]*)"[^>]*>',
        r'<a href="\1">\g<0></a>',
        content,
    )
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda m: math(m[1], "inline"),
        content,
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda m: f'<div class="formula">{math(m[1], "block")}</div>',
        content,
        flags=re.DOTALL,
    )


def math(formula: str, display: str) -> str:
    """A formula of LaTeX as MathML."""
    return latex2mathml.converter.convert(
        html.unescape(formula).strip(), display=display
    )
