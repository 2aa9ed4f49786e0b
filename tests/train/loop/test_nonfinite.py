"""A NaN costs a step and not the networks; many in a row cost the run."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from tests.benchmarks.runs import SETTINGS, differences, load
from torchrl_moawm.train.command import main
from torchrl_moawm.train.loop.nonfinite import NonFinite, NonFiniteError
from torchrl_moawm.train.loop.stepper import PerNetworkStepper


class Loss(nn.Module):
    """``a x``; ``sqrt(b y)``, at y = 0 finite without a finite gradient; c, without gradient."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.b.weight)

    def forward(self, batch):
        terms = {
            "loss_a": self.a(batch["x"]).mean(),
            "loss_b": self.b(batch["y"]).sqrt().mean(),
            "loss_c": batch["c"].mean(),
            "log": torch.tensor(float("nan")),  # nobody minimises it
        }
        return TensorDict(terms)


def make(limit=3, folder=None, compile=False):
    """A loss of two networks, its stepper, and a function that takes a step."""
    torch.manual_seed(0)
    loss = Loss()
    stepper = PerNetworkStepper(
        torch.optim.Adam(loss.parameters(), lr=0.1, fused=True),
        {"a": loss.a, "b": loss.b},
        max_grad_norm={"a": 1.0, "b": 1.0},
        steps_per_epoch=1,
        losses=[loss],
        compile=compile,
        nonfinite=NonFinite(limit, folder),
    )

    def step(x=1.0, y=1.0, c=1.0):
        given = {"x": x, "y": y, "c": c}
        batch = TensorDict({key: torch.full((2, 1), each) for key, each in given.items()}, [2])
        return stepper.step(SimpleNamespace(loss_module=loss), batch)

    return loss, stepper, step


def snapshot(loss, stepper):
    state = {"loss": loss.state_dict(), "adam": stepper.optimizer.state_dict()}
    return copy.deepcopy(state)


NAN, INF = float("nan"), float("inf")
CASES = {
    "NaN in a term": ({"x": NAN}, {"loss_a", "grad_norm_a"}),
    "infinity in a term": ({"x": INF}, {"loss_a", "grad_norm_a"}),
    "value only": ({"c": INF}, {"loss_c"}),
    "gradient only": ({"y": 0.0}, {"grad_norm_b"}),
    "both networks": ({"x": NAN, "y": 0.0}, {"loss_a", "grad_norm_a", "grad_norm_b"}),
}


@pytest.mark.parametrize(
    ("case", "compile"),
    [
        *((case, False) for case in CASES),
        pytest.param("both networks", True, marks=pytest.mark.slow),
    ],
)
def test_the_step_is_skipped_and_named(case, compile, caplog):
    """Weights and Adam's moments stay as they are; the step after it is taken again."""
    given, culprits = CASES[case]
    loss, stepper, step = make(compile=compile)
    step()
    before = snapshot(loss, stepper)
    log = step(**given)
    assert differences(before, snapshot(loss, stepper)) == []
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert stepper.nonfinite.figures() == {
        "nonfinite_steps": 1.0,
        **{f"nonfinite_{name}": 1.0 for name in culprits},
    }
    assert {"loss_a", "loss_b", "grad_norm_a", "grad_norm_b"} <= set(log.keys())
    (message,) = [
        record.getMessage()
        for record in caplog.records
        if record.name == "torchrl_moawm.train.loop.nonfinite"
    ]
    assert message.startswith("Step skipped, 1 in a row: not finite: ")
    assert set(message.rpartition(": ")[2].split(", ")) == culprits
    step()
    assert stepper.count == 3  # the schedule of epochs goes on
    assert differences(before, snapshot(loss, stepper))


def test_only_steps_in_a_row_stop_the_run(tmp_path):
    """2 bad, 1 good, 3 bad: the third of those stops it, with minibatch and weights on disk."""
    loss, _, step = make(limit=3, folder=tmp_path)
    for x in (NAN, NAN, 1.0, NAN, INF):
        step(x)
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        NonFiniteError, match=r"^3 steps in a row .*: loss_a \(5\), grad_norm_a"
    ) as e:
        step(NAN)
    assert str(tmp_path / "nonfinite.pt") in str(e.value)
    kept = load(tmp_path / "nonfinite.pt")
    assert kept["batch"]["entries"]["x"].isnan().all()
    assert kept["batch"]["batch_size"] == [2]
    assert differences(kept["loss_module"], dict(loss.state_dict())) == []


def test_the_counts_are_resumed():
    _, stepper, step = make(limit=3)
    step(NAN)
    step(NAN)
    _, again, step = make(limit=3)
    again.load_state_dict(stepper.state_dict())
    assert again.nonfinite.figures() == stepper.nonfinite.figures()
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        step(NAN)


def test_a_limit_below_one():
    with pytest.raises(ValueError, match="max_nonfinite_steps to be at least 1, got 0"):
        NonFinite(0)


def test_the_command_ends_with_one_line(tmp_path, monkeypatch):
    """Rewards that overflow: the critic's loss is infinite in the first step."""
    said = ["total_frames=120", "task.reward_scale=1e30", "max_nonfinite_steps=2"]
    said += [*SETTINGS, f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["train.py", *said])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match=r"2 steps in a row were not finite: loss_value \(2\)"):
        main()
    torch.set_num_threads(threads)
    assert load(tmp_path / "nonfinite.pt").keys() == {"batch", "loss_module"}
    assert (
        "Step skipped, 2 in a row: not finite: loss_value" in (tmp_path / "train.log").read_text()
    )
