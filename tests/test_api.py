"""What users call: no name and no signature changes without a line that says so."""

import warnings

from tests.api import FILE, described, snapshot


def test_the_public_names_are_those_that_were_committed():
    was, now = set(FILE.read_text().splitlines()), set(snapshot())
    gone, new = sorted(was - now), sorted(now - was)
    advice = (
        "Say it in CHANGELOG.md, keep a name that goes for a release with a DeprecationWarning, "
        "and run python tests/api.py."
    )
    assert gone == new == [], f"The public API has changed: {gone} became {new}. {advice}"


def test_the_file_is_sorted_and_names_every_part():
    lines = FILE.read_text().splitlines()
    assert lines == sorted(lines)
    assert "torchrl_moawm.system.MOAWM.load(path, *, into=None, device='cpu', **modules)" in lines
    assert any(line.startswith("torchrl_moawm.functional.moa_cross_entropy(") for line in lines)


def test_a_changed_signature_is_seen():
    def before(x, *, weight=None):
        """One argument has to be named."""

    def after(x, weight=None):
        """None has."""

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert described("f", before) == ["f(x, *, weight=None)"]
        assert described("f", after) == ["f(x, weight=None)"]
