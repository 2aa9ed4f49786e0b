"""The curves of a run: every kind of run is drawn whole, and nothing lies over a curve."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import partners  # noqa: F401  whose agents have looks too
from tests.transforms.teams import Teams
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.train.metrics import pictures, style
from torchrl_moawm.train.metrics.panels import QUESTIONS, arranged, parsed
from torchrl_moawm.train.settings.places import files

LAST = 40_000
MODELS = ("moa_nll", "moa_nll_marginal", "moa_nll_repeat", "moa_nll_oracle")
HEALTH = ("explained_variance", "clip_fraction", "kl_approx", "grad_norm_actor", "grad_norm_critic")
OF_A_GROUP = ("world_model_skill", "reward_skill", "z_gap", "student_kl", "active_units")


def curves(*names):
    """A rising curve of each name, from the first batch to the last."""
    return {
        name: [(frames, 0.1 * k + frames / LAST) for frames in range(10_000, LAST + 1, 10_000)]
        for k, name in enumerate(names)
    }


def summary(algorithm="moawm", **figures):
    about = {"algorithm": algorithm, "task": "a/task", "seed": 0, "frames": LAST}
    return {**about, "evaluation_return": 1.5, **figures}


PAIRS = [
    f"{name}_{pair}"
    for pair in ("adversary_adversary", "agent_adversary", "adversary_agent")
    for name in MODELS
]
GROUPS = [f"{name}_{group}" for group in ("adversary", "agent") for name in ("return", *OF_A_GROUP)]
RUNS = {
    "mappo": (curves("return", "loss_objective", "loss_critic", *HEALTH), summary("mappo")),
    "moawm": (
        curves("return", *MODELS, *OF_A_GROUP, "world_model_skill_by_block/lidar", *HEALTH),
        summary(),
    ),
    "several groups": (
        curves("return", *GROUPS, *PAIRS, "loss_kl_adversary", "loss_reconstruction_adversary"),
        summary(evaluation_return_adversary=1.0, evaluation_return_agent=2.0),
    ),
    "evaluated": (curves("return", "return_deterministic", "z_gap"), summary()),
    "partners": (curves("return", "return_train", "return_held_out", "z_gap"), summary("liam")),
}


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws a run; returns its figure and the axes by title."""

    def drawn(history, about):
        kept = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, f: (kept.append(self), save(self, f)))
        pictures.plot_curves(history, about, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").stat().st_size > 10_000
        (figure,) = kept
        figure.draw_without_rendering()  # where things are on the screen, not in the file
        found = {axis.get_title().replace("\n", " "): axis for axis in figure.axes if axis.lines}
        return figure, found

    return drawn


def labels(axis):
    return axis.get_legend_handles_labels()[1]


@pytest.mark.parametrize("name", ["moawm", "several groups"])
def test_no_legend_or_title_lies_over_a_panel(draw, name):
    figure, axes = draw(*RUNS[name])
    windows = [axis.get_window_extent() for axis in axes.values()]
    legends = [a.get_legend() for a in axes.values() if a.get_legend()]
    assert legends
    for one in [*legends, *(axis.title for axis in axes.values())]:
        box = one.get_window_extent()
        assert not any(box.overlaps(window) for window in windows)
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert not any(a.overlaps(b) for k, a in enumerate(windows) for b in windows[:k])


@pytest.mark.parametrize("name", ["mappo", "partners"])
def test_curves_end_where_the_run_ends_and_axes_say_what_they_count(draw, name):
    _, axes = draw(*RUNS[name])
    for axis in axes.values():
        assert axis.get_xlim() == (0, LAST)
        assert {line.get_xdata()[-1] for line in axis.lines if line.get_marker() == "."} == {LAST}
        assert axis.get_xlabel() == "frames (team steps)"
        assert axis.get_ylabel()
    assert axes["Return"].get_ylabel() == "return per episode,\nmean over agents"


def test_panels_are_grouped_by_question():
    looks = {"": style.look("moawm")}
    asked = {name: list(arranged(history, looks)) for name, (history, _) in RUNS.items()}
    learn, know, healthy = QUESTIONS
    assert asked["mappo"] == [learn, healthy]
    assert asked["moawm"] == [learn, know, healthy]
    assert asked["partners"] == [learn, know]


def test_a_constant_curve_is_left_out_and_named(draw):
    flat = {"loss_entropy": [(LAST // 2, -0.0), (LAST, -0.0)], "z_gap": [(LAST, float("nan"))]}
    figure, axes = draw({**curves("return", "loss_moa"), **flat}, summary())
    assert set(axes) == {"Return", "Loss of the model of others"}
    assert figure.get_supxlabel() == "Constant, not drawn: loss_entropy (0), z_gap (nan)"
    _, axes = draw({"return": [(LAST, 1.0)]}, summary())  # a single batch is no constant
    assert set(axes) == {"Return"}


def test_the_trained_policy_stands_beside_the_curve(draw):
    _, axes = draw(*RUNS["partners"])
    stars = [line for line in axes["Return"].lines if line.get_marker() == "*"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in stars] == [(LAST, 1.5)]
    assert len(labels(axes["Return"])) == 4  # in training, two pools of partners, in the end


def test_models_of_others_stand_beside_their_baselines_for_each_pair(draw):
    _, axes = draw(*RUNS["several groups"])
    pairs = [title for title in axes if title.startswith("Model of others")]
    assert pairs == [
        f"Model of others: {p}"
        for p in ("adversary by adversary", "agent by adversary", "adversary by agent")
    ]
    for title in pairs:
        lines = dict(zip(labels(axes[title]), axes[title].lines, strict=True))
        assert lines["oracle: the policy itself"].get_color() == style.BASELINES["oracle"].color
        assert len(lines) == 4
    assert {"World model: adversary", "Losses of the student: adversary"} <= axes.keys()


def test_a_group_has_one_colour_in_all_panels(draw):
    _, axes = draw(*RUNS["several groups"])
    for group in ("adversary", "agent"):
        found = {
            line.get_color()
            for title in ("Return", "Use of z: z_gap", "KL of student to teacher")
            for line in axes[title].lines
            if line.get_label() == group
        }
        assert len(found) == 1, group


def test_an_algorithm_has_the_colour_it_has_in_the_studies(draw):
    for name, colour in (("mappo", style.BLUE), ("moawm", style.VERMILLION)):
        _, axes = draw(*RUNS[name])
        assert axes["Return"].lines[0].get_color() == colour == style.look(name).color


def test_every_algorithm_has_a_look_and_no_picture_has_one_twice():
    names = {Path(name).name for name in files("algorithm")} - {"own"}
    assert names == style.LOOKS.keys()
    with_partners = [
        n for n in names if n.startswith(("nam", "type", "liam", "moawm_recurrent", "moawm_taught"))
    ]
    for together in (with_partners, names - set(with_partners)):
        assert len({style.look(name) for name in together}) == len(together)
    assert style.look("of a user") == style.look("of a user")


def test_names_are_told_apart():
    assert parsed("moa_nll_marginal_adversary_agent") == ("moa_nll_marginal", "adversary_agent", "")
    assert parsed("world_model_skill_by_block/goal") == ("world_model_skill_by_block", "", "goal")
    assert parsed("loss_kl") == ("loss_kl", "", "")
    assert parsed("loss_of_a_user") == ("loss", "of_a_user", "")
    assert parsed("max_ratio") == ("", "max_ratio", "")


class Drawn(Teams):
    """Draws what time it is, in shades of grey."""

    def render(self, mode, env_index):
        assert mode == "rgb_array"
        return np.full((4, 4, 3), 20 * int(self.time[env_index]), dtype=np.uint8)


@pytest.mark.parametrize(("lengths", "expected"), [((3, 5), 3), ((9, 2), 6)])
def test_the_film_is_one_episode_and_nothing_of_the_next(lengths, expected, tmp_path):
    """From the state after the reset to the last one before the end, or as many steps as said."""
    env = with_transforms(Drawn(lengths), max_steps=None)

    def act(tensordict):
        return tensordict.update(env.full_action_spec.rand())

    pictures.record_gif(env, act, 6, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        shades = []
        for k in range(film.n_frames):
            film.seek(k)
            shades.append(film.convert("RGB").getpixel((0, 0))[0])
        assert film.info["duration"] > 500  # of the last
    assert shades == [20 * k for k in range(expected)]
