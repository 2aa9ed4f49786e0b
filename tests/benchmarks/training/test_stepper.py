"""The step of each network: clipped by itself, at its own rate, in its epochs."""

from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from algorithms.make import make_algorithm
from tasks.environment import make_env
from tests.benchmarks.runs import TINY, compose_config
from training.stepper import PerNetworkStepper, check_trained, learning_rate
from training.trainer import make_trainer


def test_the_student_is_slow_and_stands_still_in_the_end():
    config = compose_config(*TINY, "total_frames=400", "lr=5e-3", "algorithm.auxiliary_lr=4e-3")
    config.algorithm.student_lr = 2e-3
    assert config.task.num_envs * config.task.max_steps == 200  # so there are two batches
    env = make_env(config, 4, seed=0)
    algorithm = make_algorithm(config, env)
    logger = SimpleNamespace(log_scalar=lambda *_, **__: None)
    trainer = make_trainer(config, algorithm, env, lambda _: None, logger)
    rates = []

    def note(*_):
        groups = trainer.optimization_stepper.optimizer.param_groups
        rates.append(dict(zip(algorithm.networks, (g["lr"] for g in groups), strict=True)))

    trainer.register_op("pre_epoch_log", note)
    trainer.register_op("post_optim_complete_log", note)
    trainer.train()
    names = ("actor", "critic", "student", "teacher")
    first, last = ([rate[name] for name in names] for rate in (rates[0], rates[-1]))
    assert first == pytest.approx([5e-3, 5e-3, 2e-3, 4e-3])
    assert last == pytest.approx([5e-3, 5e-3, 1e-3, 2e-3])
    assert learning_rate(config, "moa_network", 400) == 0.0


class Slopes:
    """A loss ``slope * sum(weights)`` for each network: the gradient is the slope."""

    def __init__(self, **slopes):
        self.slopes = slopes
        self.networks = {name: nn.Linear(2, 2, bias=False) for name in slopes}

    def loss(self, *names):
        return lambda _: TensorDict(
            {f"loss_{n}": self.slopes[n] * self.networks[n].weight.sum() for n in names}
        )

    def step(self, optimizer, steps=1, **settings):
        """Whether each network moved, step by step, and the last step's log."""
        parameters = [p for net in self.networks.values() for p in net.parameters()]
        defaults = {"max_grad_norm": 1.0, "steps_per_epoch": 2, "epochs": 3, "auxiliary_epochs": 1}
        stepper = PerNetworkStepper(
            optimizer(parameters), self.networks, core=self.loss("core"), **{**defaults, **settings}
        )
        trainer, moved = SimpleNamespace(loss_module=self.loss(*self.slopes)), []
        for _ in range(steps):
            before = {name: net.weight.detach().clone() for name, net in self.networks.items()}
            log = stepper.step(trainer, TensorDict())
            moved.append({n: (self.networks[n].weight - before[n]).detach() for n in before})
        return moved, log


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def test_each_network_is_clipped_by_itself():
    """A gradient of 4 elements of slope s has the norm 2 s."""
    (moved,), log = Slopes(core=0.1, auxiliary=50.0).step(sgd)
    torch.testing.assert_close(moved["core"], torch.full((2, 2), -0.1))  # small: as it is
    torch.testing.assert_close(moved["auxiliary"], torch.full((2, 2), -0.5))  # norm 1
    assert log["grad_norm_core"].item() == pytest.approx(0.2)
    assert log["grad_norm_auxiliary"].item() == pytest.approx(100.0)
    assert not log["loss_core"].requires_grad


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam])
def test_auxiliary_networks_rest_in_the_other_epochs(optimizer):
    """Three epochs of two minibatches, one of them auxiliary; Adam's momentum does not go on."""
    moved, _ = Slopes(core=1.0, auxiliary=1.0).step(optimizer, steps=8)
    assert [bool(m["core"].any()) for m in moved] == [True] * 8
    assert [bool(m["auxiliary"].any()) for m in moved] == [True, True, *[False] * 4, True, True]


def test_the_count_of_steps_is_resumed():
    slopes = Slopes(core=1.0, auxiliary=1.0)
    parameters = [p for net in slopes.networks.values() for p in net.parameters()]
    settings = {"max_grad_norm": 1.0, "steps_per_epoch": 2, "epochs": 3, "auxiliary_epochs": 1}
    stepper = PerNetworkStepper(
        sgd(parameters), slopes.networks, core=slopes.loss("core"), **settings
    )
    stepper.load_state_dict({**stepper.state_dict(), "count": 2})  # the second epoch
    log = stepper.step(SimpleNamespace(loss_module=slopes.loss("core", "auxiliary")), TensorDict())
    assert "loss_auxiliary" not in log
    assert stepper.state_dict()["count"] == 3


def test_two_networks_with_one_parameter():
    """One optimizer would train it twice."""
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.bias = a.bias
    with pytest.raises(ValueError, match=r"critic\.bias is a parameter of actor as well"):
        PerNetworkStepper(
            torch.optim.SGD(a.parameters()),
            {"actor": a, "critic": b},
            max_grad_norm=1.0,
            steps_per_epoch=1,
            epochs=1,
            core=None,
            auxiliary_epochs=1,
        )


def test_a_parameter_that_nothing_would_train():
    """A parameter is forgotten where an optimizer is made for each loss."""
    losses = nn.ModuleDict({"actor": nn.Linear(1, 1), "critic": nn.Linear(1, 1)})
    check_trained(losses, dict(losses))
    with pytest.raises(ValueError, match=r"critic\.weight belongs to none of \['actor'\]"):
        check_trained(losses, {"actor": losses["actor"]})
    losses["critic"].requires_grad_(False)
    check_trained(losses, {"actor": losses["actor"]})
