"""The batch, the contract of our losses, and a broken loss for every rule of the contract."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    dispatch,
)
from torch import nn
from torchrl.modules import IndependentNormal
from torchrl.objectives import LossModule

from tests.objectives.factory import (
    ACTION_TYPES,
    CELLS,
    LOSSES,
    agent_group,
    make_moawm,
    make_total,
)
from tests.testing.broken_losses import BROKEN, ForgetsAnOutKey, ForgetsItsGroup, NoneKeepsTheMasked
from torchrl_moawm import LossSum, MOALoss
from torchrl_moawm.modules import make_moa_network, make_world_model
from torchrl_moawm.testing import check_loss_module, make_batch
from torchrl_moawm.testing.contract import RULES, with_alive
from torchrl_moawm.testing.contract_probes import same
from torchrl_moawm.testing.contract_values import pattern

# ------------------------------------------------------------------- make_batch


def test_batch_has_every_default_key_in_its_shape():
    batch = make_batch((4, 6), n_agents=3, obs_dim=5, n_actions=4, latent_dim=2, dead_fraction=0.3)
    seen = (3 - 1) * (5 + 4)  # everybody else's observation and action
    flags, real = torch.bool, torch.float32
    now = {
        "observation": ((5,), real),
        "action": ((), torch.int64),
        "action_log_prob": ((), real),
        "action_mask": ((4,), flags),
        "mask": ((), flags),
        "previous_observation": ((5,), real),
        "previous_action": ((), torch.int64),
        "previous_mask": ((), flags),
        "feature": ((5,), real),
        "latent": ((2,), real),
        "latent_loc": ((2,), real),
        "latent_scale": ((2,), real),
        "latent_noise": ((2,), real),
        "teacher_feature": ((seen,), real),
        "state_value": ((1,), real),
        "value_target": ((1,), real),
        "advantage": ((1,), real),
    }
    then = {"observation": ((5,), real), "reward": ((1,), real), "observation_mask": ((5,), flags)}
    expected = {("agents", name): entry for name, entry in now.items()}
    expected |= {("next", "agents", name): entry for name, entry in then.items()}
    for key, (features, dtype) in expected.items():
        assert batch[key].shape == (4, 6, 3, *features), key
        assert batch[key].dtype == dtype, key
    for key in ("done", "terminated", "truncated"):
        assert batch[key].shape == batch["next", key].shape == (4, 6, 1)
    assert batch["agents"].batch_size == batch["next", "agents"].batch_size == (4, 6, 3)


@pytest.mark.parametrize(
    ("action_type", "features", "dtype"),
    [
        ("categorical", (), torch.int64),
        ("one-hot", (7,), torch.int64),
        ("continuous", (2,), torch.float32),
    ],
)
def test_action_types(action_type, features, dtype):
    batch = make_batch((2, 3), action_type=action_type, n_actions=7, action_dim=2)
    for name in ("action", "previous_action"):
        assert batch["agents", name].shape == (2, 3, 3, *features)
        assert batch["agents", name].dtype == dtype
    assert (("agents", "action_mask") in batch.keys(True)) == (action_type != "continuous")
    if action_type == "one-hot":
        assert (batch["agents", "action"].sum(-1) == 1).all()
    if action_type == "continuous":
        assert batch["agents", "action"].abs().max() < 1


def test_unknown_action_type():
    with pytest.raises(ValueError, match="'categorical', 'one-hot', 'continuous', got 'onehot'"):
        make_batch(action_type="onehot")


def test_same_generator_same_batch():
    first, second, other = (
        make_batch(dead_fraction=0.3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert (first == second).all()
    assert not first["agents", "observation"].equal(other["agents", "observation"])


def test_batch_of_a_nested_group():
    batch = make_batch((2,), group=("teams", "red"), dead_fraction=0.5)
    assert batch["teams", "red", "observation"].shape == (2, 3, 5)
    assert batch["next", "teams", "red", "reward"].shape == (2, 3, 1)
    assert batch["teams", "red", "mask"].shape == (2, 3)


def test_the_dead_read_zero_and_without_dead_all_live():
    batch = make_batch((8, 8), dead_fraction=0.5)
    dead = ~batch["agents", "mask"]
    assert 0.3 < dead.float().mean() < 0.7
    for key in ("observation", "action", "advantage", "latent"):
        assert not batch["agents", key][dead].any()
    assert not batch["next", "agents", "reward"][dead].any()
    assert make_batch()["agents", "mask"].all()


# --------------------------------------------------------------- our own losses


def gaussian_moa():
    """A probabilistic network: its own distribution over the others' actions."""
    return MOALoss(
        ProbabilisticTensorDictSequential(
            make_moa_network(agent_group("continuous"), **CELLS),
            ProbabilisticTensorDictModule(
                in_keys={"loc": ("agents", "moa_loc"), "scale": ("agents", "moa_scale")},
                out_keys=[("agents", "others_action")],
                distribution_class=IndependentNormal,
            ),
        )
    )


CONTRACT = {**LOSSES, "moawm": make_moawm, "total": make_total}


@pytest.mark.parametrize(
    ("action_type", "dead_fraction"),
    [("categorical", 0.0), *((action_type, 0.3) for action_type in ACTION_TYPES)],
)
@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name, action_type, dead_fraction, generator):
    batch = make_batch(action_type=action_type, dead_fraction=dead_fraction, generator=generator)
    check_loss_module(CONTRACT[name](action_type), batch)


@pytest.mark.parametrize("dead_fraction", [0.0, 0.3])
def test_contract_of_a_probabilistic_moa(dead_fraction, generator):
    batch = make_batch(action_type="continuous", dead_fraction=dead_fraction, generator=generator)
    check_loss_module(gaussian_moa(), batch)


def test_contract_in_a_nested_group(generator):
    group = ("teams", "red")
    loss = MOALoss(make_moa_network(agent_group(name=group), **CELLS), group=group)
    check_loss_module(loss, make_batch(group=group, dead_fraction=0.3, generator=generator))


def test_contract_of_a_sum_whose_parts_mean_different_entries_by_one_name(generator):
    """``action`` is that of the own group in one part, and that of the foes in the other."""
    settings = {"other_groups": [agent_group(n_agents=2, name="foes")], **CELLS}
    networks = [make_moa_network(agent_group(), target_group=x, **settings) for x in FOES]
    total = LossSum(
        {f"moa_{x}": MOALoss(n, target_group=x) for x, n in zip(FOES, networks, strict=True)}
    )
    batch = make_batch(generator=generator)
    batch.update(make_batch(n_agents=2, group="foes", generator=generator))
    check_loss_module(total, batch)


FOES = [None, "foes"]


# ---------------------------------------------------------------- broken losses


@pytest.mark.parametrize("broken", BROKEN, ids=lambda loss: loss.__name__)
def test_a_broken_loss_fails_by_its_rule_and_by_no_other(broken, generator):
    make = make_moa_network if issubclass(broken, MOALoss) else make_world_model
    loss, batch = broken(make(agent_group(), **CELLS)), make_batch(generator=generator)
    batch = batch.exclude(("agents", "mask"), ("next", "agents", "mask"))
    first, *more = BROKEN[broken]
    with pytest.raises(AssertionError, match=f"^{first}: "):
        check_loss_module(loss, batch)
    check_loss_module(loss, batch, skip={first, *more})


def test_every_rule_has_a_broken_loss():
    assert {rules[0] for rules in BROKEN.values()} == set(RULES)


# ------------------------------------------------------------------ the checker


class Upstream(LossModule):
    """A loss with nothing of ours in it: TorchRL's own keys, masks and reduction."""

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"

    default_keys = _AcceptedKeys
    out_keys = ["loss_norm"]

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.reduction = "mean"

    @property
    def in_keys(self):
        return [self.tensor_keys.observation]

    def _forward_value_estimator_keys(self, **_):
        pass

    @dispatch
    def forward(self, tensordict):
        observation = tensordict[self.tensor_keys.observation]
        mask = tensordict.get(("collector", "mask"), None)
        if mask is not None:
            observation = torch.where(mask.unsqueeze(-1), observation, 0.0)
        loss = self.net(observation).squeeze(-1).square()
        return TensorDict({"loss_norm": self._reduce_loss(loss, tensordict=tensordict)})


def test_a_loss_without_agents_keeps_the_contract():
    check_loss_module(Upstream(), TensorDict({"observation": torch.randn(4, 6, 3)}, (4, 6)))


def test_unknown_rule_lists_the_rules():
    with pytest.raises(ValueError, match=r"'input_unchanged'.*got \['typo'\]"):
        check_loss_module(LOSSES["moa"](), make_batch(), skip={"typo"})


def test_batch_without_batch_dimension():
    with pytest.raises(ValueError, match="at least one batch dimension"):
        check_loss_module(LOSSES["moa"](), make_batch()[0, 0])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            ForgetsAnOutKey,
            "out_keys: forward returned ['loss_obs', 'loss_reward', 'log'], expected out_keys, "
            "['loss_obs', 'loss_reward'].",
        ),
        (
            ForgetsItsGroup,
            "default_keys: set_keys(mask=None) gave 'mask', expected ('agents', 'mask').",
        ),
        (  # 24 rows of 3 agents: 16 rows valid, in each of which 2 agents live
            NoneKeepsTheMasked,
            "mean_is_sum_over_count: 40 masked elements of loss_obs are not 0.",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_message_tells_what_was_found_and_expected(broken, message):
    with pytest.raises(AssertionError) as error:
        check_loss_module(broken(make_world_model(agent_group(), **CELLS)), make_batch())
    assert str(error.value) == message


def test_loss_batch_and_random_state_are_left_as_they_were():
    loss, batch = make_total(), make_batch(dead_fraction=0.3)
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    entries, rng, in_keys = batch.clone(), torch.get_rng_state(), loss.in_keys
    check_loss_module(loss, batch)
    assert all(value.equal(state[key]) for key, value in loss.state_dict().items())
    assert (batch == entries).all()
    assert list(batch.keys(True)) == list(entries.keys(True))
    assert torch.get_rng_state().equal(rng)
    assert loss.in_keys == in_keys
    assert all(parameter.grad is None for parameter in loss.parameters())


# --------------------------------------------------------------------- its own tools


def test_who_waits_sees_and_does_nothing():
    batch = make_batch((50,), action_type="continuous", dead_fraction=0.3, waiting_fraction=0.5)
    agents = batch["agents"]
    there, acts = agents["alive"], agents["mask"]
    assert (there & ~acts).any()
    for name in ("action", "action_log_prob", "advantage"):
        assert torch.equal(agents[name].reshape(50, 3, -1).any(-1), acts), name
    for name in ("observation", "state_value", "latent"):
        assert torch.equal(agents[name].reshape(50, 3, -1).any(-1), there), name


def test_the_same_is_so_bit_by_bit_where_nothing_else_is_asked_for():
    one, near = {"loss": torch.tensor(1.0)}, {"loss": torch.tensor(1.0 + 2.0**-23)}
    same(one, dict(one), "again")
    same(near, one, "again", exact=False)
    with pytest.raises(AssertionError, match="again loss is"):
        same(near, one, "again")
    with pytest.raises(AssertionError, match="again there is no 'loss'"):
        same({}, one, "again")


def test_a_pattern_hides_every_third():
    assert pattern(torch.Size([2, 3]), None).tolist() == [[True, False, True]] * 2
    assert pattern(torch.Size([5]), None).tolist() == [True, False, True, True, False]


def test_the_sizes_of_a_batch_that_says_nothing():
    batch = make_batch()
    assert batch.shape == (4, 6)
    assert batch["agents", "observation"].shape == (4, 6, 3, 5)
    assert batch["agents", "latent"].shape == (4, 6, 3, 3)
    assert batch["agents", "action_mask"].shape == (4, 6, 3, 4)


def test_who_is_done_is_not_alive():
    """In the group that says so at the root, and where it does not say who is alive."""
    done = torch.tensor([[[True], [False]]])
    groups = {"one": {"done": done}, "two": {"done": done, "alive": done[..., 0]}}
    batch = TensorDict({**groups, "done": done[:, 0], "next": {"one": {"done": done}}}, [1])
    found = with_alive(batch)
    assert torch.equal(found["one", "alive"], ~done[..., 0])
    assert torch.equal(found["two", "alive"], done[..., 0])
    assert "alive" not in found["next", "one"]
    assert "alive" not in batch["one"]
