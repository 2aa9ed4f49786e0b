"""Files and functions are short, public names say what they are, the benchmarks use just these."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "torchrl_moawm").rglob("*.py"))
ROOMS = (
    "",
    ".envs",
    ".functional",
    ".modules",
    ".objectives",
    ".system",
    ".testing",
    ".train",
    ".transforms",
)
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
LEANING = re.compile(
    r"(Of|Those|That|It|Its|They|Their|Likewise|Also|And|But|Which|Who|Whose|So|Goes|Anew|Again)\b"
    r"|The same\b"
)
"""How a line begins that makes no sense without the name beside it."""


def code_lines(source, tree):
    """Numbers of the lines with code: no docstrings, no comments, no blank lines."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*SILENT, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(getattr(value, "value", None), str):
                lines -= set(range(statement.lineno, statement.end_lineno + 1))
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_files_and_functions_are_of_one_screen(path):
    source = path.read_text()
    tree = ast.parse(source)
    lines = code_lines(source, tree)
    assert len(lines) <= 160
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = sum(node.lineno <= line <= node.end_lineno for line in lines)
            assert length <= 40, node.name


def public_names():
    for room in ROOMS:
        module = importlib.import_module(f"torchrl_moawm{room}")
        for name in module.__all__:
            if callable(getattr(module, name)):
                yield pytest.param(getattr(module, name), id=f"{room}.{name}".lstrip("."))


@pytest.mark.parametrize("thing", list(public_names()))
def test_a_public_name_says_what_it_is(thing):
    """Its first line is a sentence or a noun phrase that stands by itself."""
    first = (inspect.getdoc(thing) or "").split("\n")[0]
    assert first[:1].isupper()
    assert first.endswith((".", "?"))
    assert len(first.split()) >= 3
    assert not LEANING.match(first)


BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_file_of_the_benchmarks_imports_little_and_nothing_private(path):
    """At most 30 names; what it needs of the library is public, and of its parts at the top."""
    count = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            count += len(node.names)
            module = getattr(node, "module", None) or ""
            if module.startswith("torchrl_moawm.train"):  # its parts are open to the benchmarks
                assert not [each.name for each in node.names if each.name.startswith("_")]
            elif module.partition(".")[0] == "torchrl_moawm":
                public = importlib.import_module(module).__all__
                assert [each.name for each in node.names if each.name not in public] == []
    assert count <= 30


def test_lines_are_counted_without_docstrings_comments_and_blanks():
    source = """
x = 1

# a comment
def f():
    '''One.

    Two.
    '''
    return (
        x
    )
"""
    assert code_lines(source, ast.parse(source)) == {2, 5, 10, 11, 12}
