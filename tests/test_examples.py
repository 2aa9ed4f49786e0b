"""Each example runs, and does what its docstring says."""

import math
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TERMS = [
    "loss_entropy",
    "loss_kl",
    "loss_moa",
    "loss_objective",
    "loss_obs",
    "loss_reconstruction",
    "loss_reward",
    "loss_teacher_kl",
    "loss_teacher_reconstruction",
    "loss_value",
]


def run(name, *args):
    return runpy.run_path(str(EXAMPLES / name))["main"](list(args))


def total(terms):
    return sum(value for name, value in terms.items() if name.startswith("loss"))


def test_compose_losses_returns_every_term_and_one_step_lowers_the_sum(capsys):
    before, after = run("01_compose_losses.py")
    assert sorted(name for name, _ in before.items() if name.startswith("loss")) == TERMS
    assert all(value.isfinite() for value in (*before.values(), *after.values()))
    assert total(after) < total(before)
    assert "loss_moa" in capsys.readouterr().out


def test_train_vmas_lowers_the_auxiliary_losses_within_three_batches(capsys):
    sizes = ["--num-envs=32", "--max-steps=10", "--total-frames=960", "--minibatches=2"]
    returns = run("02_train_vmas.py", *sizes, "--epochs=4", "--auxiliary-epochs=4")
    assert len(returns) == 3
    assert all(map(math.isfinite, returns))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("frames")]
    assert [int(line.split()[1]) for line in lines] == [320, 640, 960]
    for name in ("loss_moa", "loss_reconstruction"):
        first, *_, last = (float(line.split(name)[1].split()[0]) for line in lines)
        assert last < first - 0.1, name


def test_train_vmas_repeats_with_its_seed(capsys):
    sizes = ["--num-envs=4", "--max-steps=5", "--total-frames=40", "--minibatches=2", "--epochs=1"]
    assert run("02_train_vmas.py", *sizes) == run("02_train_vmas.py", *sizes)


def test_your_own_network_is_trained_alone_and_in_the_framework(capsys):
    histories = run("03_your_own_network.py", "--steps=15")
    for history in histories.values():
        assert len(history) == 15
        assert history[-1] < history[0] - 0.1
    assert histories["alone"][-1] < math.log(5) - 0.3  # better than a guess among 5 commands
    assert capsys.readouterr().out.count("nats") == 2


@pytest.mark.parametrize("settings", [["--recurrent"]])
def test_pettingzoo_trains_every_group(settings, capsys):
    """Each group models both, but for the prey's own group of one."""
    sizes = ["--total-frames=400", "--num-envs=4", "--steps=25", "--minibatches=2"]
    history = run("04_pettingzoo.py", *sizes, *settings)
    assert len(history) == 4
    for terms in history:
        assert all(map(math.isfinite, terms.values()))
        assert terms["loss_moa_agent_agent"] == 0.0
    for name in ("loss_reconstruction_adversary", "loss_teacher_reconstruction_agent"):
        assert history[-1][name] < 0.9 * history[0][name], name
    line = capsys.readouterr().out.splitlines()[-1]
    assert "frames     400  return adversary " in line
    assert "moa_agent_adversary 1." in line  # about log 5, nats


def test_ad_hoc_teamwork_finds_out_who_the_partner_is(capsys):
    sizes = ["--batches=4", "--num-envs=64", "--steps=20"]
    returns, known = run("05_ad_hoc_teamwork.py", *sizes)
    assert len(returns) == len(known) == 4
    assert all(map(math.isfinite, returns))
    assert known[-1] > 0.7  # 1/4 by chance
    assert capsys.readouterr().out.count("loss_moa_agent") == 4


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_says_how_to_run_it_and_is_run_here(path):
    source = path.read_text()
    assert path.name[:2].isdigit()
    assert len(source.splitlines()) < 145
    assert f"python examples/{path.name}" in source.split('"""')[1]
    tests = (Path(__file__).with_name(f"test_{name}.py") for name in ("examples", "benchmarl"))
    assert any(f'"{path.name}"' in test.read_text() for test in tests)
