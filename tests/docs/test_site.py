"""The site builds without a warning and loads nothing from elsewhere (with the extra ``docs``)."""

import re
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, names

pytest.importorskip("mkdocstrings")
pytest.importorskip("latex2mathml")

ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    config = PAGES.parent / "mkdocs.yml"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.html")}


def test_every_page_is_there(site):
    assert {page.replace(".md", ".html") for page in names()} <= site.keys()
    assert "benchmarks/partners.html" in site


def test_nothing_is_loaded_from_elsewhere(site):
    assert {page: found for page, text in site.items() if (found := ELSEWHERE.findall(text))} == {}


def test_formulas_and_roles_are_shown_as_such(site):
    assert all("<math" in site[f"losses/{name}.html"] for name in ("moa", "value", "student"))
    for page, text in site.items():
        assert 'class="arithmatex"' not in text, page
        assert not re.search(r":(class|func|meth):", text), page
