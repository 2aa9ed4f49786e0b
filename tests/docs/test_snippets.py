"""Every Python block of the documentation runs; those of a page share their names."""

import sys
from types import ModuleType

import pytest

from tests.docs.pages import names, snippets


@pytest.mark.parametrize("page", [page for page in names() if snippets(page)])
def test_the_snippets_of_a_page_run_in_their_order(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # some write files
    module = ModuleType("a_page")  # as a script: its classes can be pickled
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, code in enumerate(snippets(page)):
        exec(compile(code, f"{page}, block {number}", "exec"), vars(module))
