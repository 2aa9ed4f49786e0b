"""The pictures of the studies: one palette, legends beside the curves, axes with units."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from studies import partners_numbers, partners_pictures, plots
from torchrl_moawm.train.metrics import style

LAST = 300


def make_runs(n, *names):
    return [
        {
            f"step_{k}": {"step_count": frames, **{name: [seed + frames] for name in names}}
            for k, frames in enumerate(range(100, LAST + 1, 100))
        }
        for seed in range(n)
    ]


MODELS = [name for row in plots.OF_THE_MODELS.values() for name in row]
STUDY = {
    "one": {"mappo": make_runs(3, "return"), "moawm": make_runs(3, "return", *MODELS)},
    "two": {"moawm": make_runs(2, "return", *MODELS), "moawm_no_teacher": make_runs(1, "return")},
}
PROBE = {
    "chance": 0.25,
    "returns": dict.fromkeys(partners_numbers.POOLS, 1.0),
    "accuracy": {"train": [0.3, 0.9, 0.8], "held_out": [0.3, 0.8, 0.7]},
    "moa": {p: {"moa": [1.0, 0.5], "marginal": [1.2, 1.1]} for p in partners_numbers.POOLS},
    "projection": {"points": [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], "types": [0, 1, 1]},
}
AGENTS = ("type_oracle", "moawm_taught", "nam_recurrent", "nam")
POOLS = [f"return_{pool}" for pool in partners_numbers.POOLS]
PARTNERS = {"task": {name: make_runs(1, "return", *POOLS) for name in AGENTS}}
PROBES = {"task": {name: [PROBE] for name in AGENTS}}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Every picture of both studies, by name."""
    folder = tmp_path_factory.mktemp("pictures")
    kept = {}
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda self, f: (kept.update({f.stem: self}), save(self, f))
        )
        plots.plot(STUDY, folder / "study.png")
        plots.plot_models(STUDY, folder / "models.png")
        partners_pictures.plot_returns(PARTNERS, PROBES, folder)
        partners_pictures.plot_probes(PROBES, folder)
        partners_pictures.plot_partner_model(PROBES, folder)
        partners_pictures.plot_projection(PROBES, folder)
    for figure in kept.values():
        figure.draw_without_rendering()  # where things are on the screen, not in the file
    return kept


def drawn(figure):
    return [axis for axis in figure.axes if axis.has_data()]


def line_of(figure, label):
    found = {
        (line.get_color(), line.get_linestyle())
        for axis in drawn(figure)
        for line in axis.lines
        if line.get_label() == label
    }
    assert len(found) == 1, (label, found)
    return found.pop()


def test_every_picture_is_made(figures):
    assert figures.keys() == {
        *("study", "models", "returns_train", "returns_held_out", "probe", "moa", "projection")
    }


def test_no_legend_lies_over_a_panel(figures):
    for name, figure in figures.items():
        legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
        assert len(legends) == 1, name
        box = legends[0].get_window_extent()
        assert not any(box.overlaps(axis.get_window_extent()) for axis in drawn(figure)), name
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, name


def test_letters_are_legible_at_the_width_of_the_readme(figures):
    for figure in figures.values():
        pixels = 850 / figure.get_figwidth() / 72  # of a point
        texts = [text for axis in drawn(figure) for text in (axis.title, axis.xaxis.label)]
        texts += [label for axis in drawn(figure) for label in axis.get_xticklabels()]
        assert min(text.get_fontsize() for text in texts) * pixels > 10


def test_axes_are_named_with_units(figures):
    unit = {
        "study": "return per episode, mean over agents",
        "returns_train": "return per episode, mean over agents",
        "returns_held_out": "return per episode, mean over agents",
        "probe": "accuracy of the probe, fraction of episodes",
        "moa": "nats per predicted agent",
        "projection": "second component (no unit)",
    }
    for name, expected in unit.items():
        assert drawn(figures[name])[0].get_ylabel().split() == expected.split()
    for name in ("study", "models", "returns_train"):
        assert drawn(figures[name])[-1].get_xlabel() == "frames (team steps)"
    rows = [axis.get_ylabel() for axis in drawn(figures["models"])]
    assert rows[::2] == list(plots.OF_THE_MODELS)


def test_curves_end_where_the_runs_end(figures):
    for name in ("study", "models", "returns_train", "returns_held_out"):
        for axis in drawn(figures[name]):
            assert axis.get_xlim() == (0, LAST)
            assert {line.get_xdata()[-1] for line in axis.lines if len(line.get_xdata()) > 2} == {
                LAST
            }


def test_an_agent_has_one_look_in_all_pictures(figures):
    pictures = [figures[name] for name in ("returns_train", "returns_held_out", "probe")]
    for name in ("moawm_taught", "nam_recurrent"):
        assert {line_of(figure, name) for figure in pictures} == {tuple(style.look(name))}
    assert line_of(figures["study"], "moawm") == line_of(figures["models"], "moawm")
    assert style.look("moawm").color == style.look("moawm_taught").color


def test_chance_and_oracles_are_drawn(figures):
    chance = [line for line in drawn(figures["probe"])[0].lines if line.get_label() == "chance"]
    assert np.unique(chance[0].get_ydata()).tolist() == [0.25]
    assert line_of(figures["models"], "oracle: the policy itself") == style.BASELINES["oracle"]
    assert line_of(figures["moa"], "one distribution per step") == style.BASELINES["marginal"]


def test_headings_count_the_seeds():
    assert plots.with_seeds("one", STUDY["one"]) == "one, 3 seeds"
    assert plots.with_seeds("two", STUDY["two"]) == "two, 1 to 2 seeds"
    assert plots.with_seeds("three", {"mappo": make_runs(1)}) == "three, 1 seed"


def test_a_line_is_the_mean_and_a_band_the_range(figures):
    axis = drawn(figures["study"])[0]
    assert axis.lines[0].get_ydata().tolist() == [101.0, 201.0, 301.0]
    ends = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == (100.0, 302.0)
