"""The step of each network: clipped by itself, at its own rate, in its epochs."""

from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch._dynamo.utils import counters

from tests.benchmarks.runs import TINY, compose_config
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.schedule import learning_rate, losses_by_epoch
from torchrl_moawm.train.loop.stepper import PerNetworkStepper, check_trained, max_grad_norm
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env


@pytest.mark.parametrize("anneal", [True, False])
def test_every_network_has_its_rate_which_falls_to_zero(anneal):
    config = compose_config(*TINY, "lr=5e-3", "algorithm.teacher_lr=4e-3")
    config.algorithm.moa_lr, config.algorithm.world_model_lr = 1e-2, 2e-2
    config.algorithm.student_lr = 2e-3
    config.anneal_lr = anneal
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
    names = ("actor", "critic", "student", "teacher", "moa_network", "world_model")
    first, last = ([rate[name] for name in names] for rate in (rates[0], rates[-1]))
    assert first == pytest.approx([5e-3, 5e-3, 2e-3, 4e-3, 1e-2, 2e-2])
    half = 2.5e-3 if anneal else 5e-3
    assert last == pytest.approx([half, half, 1e-3, 2e-3, 5e-3, 1e-2])
    trainer.optimization_stepper.set_rates(1.0)
    note()
    assert rates[-1]["moa_network"] == 0.0


class Slopes:
    """A loss ``slope * sum(weights)`` for each network: the gradient is the slope."""

    def __init__(self, **slopes):
        self.slopes = slopes
        self.networks = {name: nn.Linear(2, 2, bias=False) for name in slopes}

    def loss(self, *names):
        return lambda _: TensorDict(
            {f"loss_{n}": self.slopes[n] * self.networks[n].weight.sum() for n in names}
        )

    def losses(self):
        """The losses of three epochs: in the first everything is minimised."""
        return [self.loss(*self.slopes), self.loss("core"), self.loss("core")]

    def step(self, optimizer, steps=1, **settings):
        """Whether each network moved, step by step, and the last step's log."""
        parameters = [p for net in self.networks.values() for p in net.parameters()]
        limits = dict.fromkeys(self.networks, 1.0)
        stepper = PerNetworkStepper(
            optimizer(parameters),
            self.networks,
            **{"max_grad_norm": limits, "steps_per_epoch": 2, "losses": self.losses()} | settings,
        )
        moved = []
        for _ in range(steps):
            before = {name: net.weight.detach().clone() for name, net in self.networks.items()}
            log = stepper.step(None, TensorDict())
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


def test_a_name_that_begins_like_a_model_needs_no_setting_of_its_own():
    """An algorithm of one's own has no ``student_lr``: its networks learn as the others do."""
    config = compose_config(*TINY, "algorithm=mappo", "lr=5e-3", "max_grad_norm=0.7")
    for name in ("student_policy", "teacher", "moa", "world_model_agents", "actor"):
        assert learning_rate(config, name) == 5e-3
        assert max_grad_norm(config, name) == 0.7


def test_each_network_has_a_limit_of_its_own():
    limits = {"core": 1.0, "auxiliary": 10.0}
    (moved,), _ = Slopes(core=50.0, auxiliary=50.0).step(sgd, max_grad_norm=limits)
    torch.testing.assert_close(moved["auxiliary"], 10 * moved["core"])


def test_which_losses_are_minimised_in_which_epoch():
    config = compose_config(*TINY, "algorithm.model_epochs=3", "algorithm.latent_epochs=1")
    algorithm = make_algorithm(config, make_env(config, 4, seed=0))
    losses = losses_by_epoch(algorithm, 4)
    assert losses[1] is losses[2]
    assert losses[3] is algorithm.core
    terms = [{key for key in loss.out_keys if key.startswith("loss")} for loss in losses]
    latent = {"loss_reconstruction", "loss_kl", "loss_teacher_reconstruction", "loss_teacher_kl"}
    assert terms[0] - terms[1] == latent
    assert terms[1] - terms[3] == {"loss_moa", "loss_obs", "loss_reward"}
    assert terms[0] == {k for k in algorithm.loss_module.out_keys if k.startswith("loss")}


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam])
def test_auxiliary_networks_rest_in_the_other_epochs(optimizer):
    """Three epochs of two minibatches, one of them auxiliary; Adam's momentum does not go on."""
    moved, _ = Slopes(core=1.0, auxiliary=1.0).step(optimizer, steps=8)
    assert [bool(m["core"].any()) for m in moved] == [True] * 8
    assert [bool(m["auxiliary"].any()) for m in moved] == [True, True, *[False] * 4, True, True]


def test_the_count_of_steps_is_resumed():
    slopes = Slopes(core=1.0, auxiliary=1.0)
    parameters = [p for net in slopes.networks.values() for p in net.parameters()]
    settings = {"max_grad_norm": dict.fromkeys(slopes.networks, 1.0), "losses": slopes.losses()}
    stepper = PerNetworkStepper(sgd(parameters), slopes.networks, steps_per_epoch=2, **settings)
    stepper.load_state_dict({**stepper.state_dict(), "count": 2})  # the second epoch
    log = stepper.step(None, TensorDict())
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
            max_grad_norm={},
            steps_per_epoch=1,
            losses=[],
        )


def test_a_parameter_that_nothing_would_train():
    """A parameter is forgotten where an optimizer is made for each loss."""
    losses = nn.ModuleDict({"actor": nn.Linear(1, 1), "critic": nn.Linear(1, 1)})
    check_trained(losses, dict(losses))
    with pytest.raises(ValueError, match=r"critic\.weight belongs to none of \['actor'\]"):
        check_trained(losses, {"actor": losses["actor"]})
    losses["critic"].requires_grad_(False)
    check_trained(losses, {"actor": losses["actor"]})


@pytest.mark.slow
def test_every_run_of_a_process_is_compiled(monkeypatch):
    """Torch compiles a function eight times; the ninth run of a sweep would not be, unsaid."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    compiled = []
    for width in range(1, 4):
        loss = nn.Linear(width, 1)
        loss.forward = lambda batch, layer=loss: TensorDict(
            {"loss": nn.functional.linear(batch["x"], layer.weight).sum()}
        )
        stepper = PerNetworkStepper(
            torch.optim.Adam(loss.parameters()),
            {"layer": loss},
            max_grad_norm={"layer": 1.0},
            steps_per_epoch=1,
            losses=[loss],
            compile=True,
        )
        before = counters["stats"]["unique_graphs"]
        stepper.step(SimpleNamespace(loss_module=loss), TensorDict({"x": torch.ones(2, width)}, 2))
        compiled.append(counters["stats"]["unique_graphs"] - before)
    assert compiled == [1, 1, 1]
