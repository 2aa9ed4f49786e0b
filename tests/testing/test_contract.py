"""The contract of our losses, and a broken loss for every rule of the contract."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    dispatch,
)
from torch import nn
from torchrl.modules import IndependentNormal
from torchrl.objectives import LossModule

from tests.objectives.factory import (
    ACTION_TYPES,
    CELLS,
    LOSSES,
    WORLDS,
    Z,
    agent_group,
    make_moa,
    make_moawm,
    make_total,
    make_world,
    student,
)
from tests.testing import torchrl_losses
from tests.testing.broken_losses import BROKEN, ForgetsAnOutKey, ForgetsItsGroup, NoneKeepsTheMasked
from tests.testing.sound_losses import SOUND, Counts, Upstream
from torchrl_moawm import LossSum, MOALoss, TeacherCVAELoss, WorldModelLoss
from torchrl_moawm.modules import make_moa_network, make_teacher, make_world_model
from torchrl_moawm.testing import check_loss_module, make_batch
from torchrl_moawm.testing.contract import RULES, with_alive
from torchrl_moawm.testing.contract_masks import pattern
from torchrl_moawm.testing.contract_runs import same

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


DEAD, WAITING = {"dead_fraction": 0.3}, {"dead_fraction": 0.2, "waiting_fraction": 0.3}
CASES = [
    *((name, "categorical", {}) for name in CONTRACT),
    *((name, action_type, DEAD) for name in CONTRACT for action_type in ACTION_TYPES),
    *((name, "categorical", WAITING) for name in LOSSES),
]


@pytest.mark.parametrize(("name", "action_type", "fractions"), CASES)
def test_contract(name, action_type, fractions, generator):
    batch = make_batch(action_type=action_type, generator=generator, **fractions)
    check_loss_module(CONTRACT[name](action_type), batch)


@pytest.mark.parametrize("fractions", [DEAD, WAITING])
@pytest.mark.parametrize("name", WORLDS)
def test_contract_of_a_world_model_that_is_asked_more(name, fractions, generator):
    """Over several steps a batch must not lose its time."""
    skip = {"batch_shapes"} if "horizon" in WORLDS[name] else set()
    check_loss_module(
        make_world(**WORLDS[name]), make_batch(generator=generator, **fractions), skip=skip
    )


def test_contract_of_a_sum_with_everything(generator):
    loss = make_moawm(world=WORLDS["everything"], continue_coeff=0.5)
    check_loss_module(loss, make_batch(generator=generator, **DEAD), skip={"batch_shapes"})


@pytest.mark.parametrize("dead_fraction", [0.0, 0.3])
def test_contract_of_a_probabilistic_moa(dead_fraction, generator):
    batch = make_batch(action_type="continuous", dead_fraction=dead_fraction, generator=generator)
    check_loss_module(gaussian_moa(), batch)


def test_contract_beside_a_teacher_that_acts(generator):
    """The loss reads no action of t: of the teacher's parts the decoder alone is asked for it."""
    kind = "continuous"  # whose actions can be NaN
    acting = make_teacher(agent_group(kind), latent_dim=Z, acts=True, **CELLS)
    loss = TeacherCVAELoss(student(kind), acting)
    assert ("agents", "action") not in loss.in_keys
    batch = make_batch(action_type=kind, dead_fraction=0.3, generator=generator)
    check_loss_module(loss, batch)


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


@pytest.mark.parametrize("sound", SOUND, ids=lambda loss: loss.__name__)
def test_what_is_no_defect_is_not_told(sound, generator):
    if issubclass(sound, Upstream):
        loss, batch = sound(), TensorDict({"observation": torch.randn(4, 6, 3)}, (4, 6))
        batch["weight"] = torch.rand(4, 6)
    else:
        loss, batch = sound(make_world().world_model), make_batch(generator=generator)
    assert list(check_loss_module(loss, batch, report=True)) == SOUND[sound]


def test_a_buffer_that_moves_is_put_back():
    loss = Counts()
    check_loss_module(loss, TensorDict({"observation": torch.randn(4, 3)}, [4]), report=True)
    assert loss.calls == 0.0


def test_networks_that_a_failed_call_has_left_in_disorder_are_put_back():
    """TorchRL leaves tensors of vmap in them, and a deepcopy fails from then on."""
    loss, batch = torchrl_losses.make("SACLoss")
    assert "deepcopy" not in check_loss_module(loss, batch, report=True)
    deepcopy(loss)


def test_unknown_rule_lists_the_rules():
    with pytest.raises(ValueError, match=r"'input_unchanged'.*got \['typo'\]"):
        check_loss_module(LOSSES["moa"](), make_batch(), skip={"typo"})


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
            "mean_is_sum_over_count: 36 masked elements of loss_obs are not 0.",
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


def test_the_same_is_so_bit_by_bit_where_nothing_else_is_asked_for():
    one, near = {"loss": torch.tensor(1.0)}, {"loss": torch.tensor(1.0 + 2.0**-23)}
    same(one, dict(one), "again")
    same(near, one, "again", exact=False)
    with pytest.raises(AssertionError, match="again loss is"):
        same(near, one, "again")
    with pytest.raises(AssertionError, match="again there is no 'loss'"):
        same({}, one, "again")


@pytest.mark.parametrize("shape", [(2,), (4,), (4, 6), (4, 6, 3), (8, 3), (4, 6, 2), (4, 6, 6)])
def test_a_pattern_hides_some_and_is_irregular(shape):
    found = pattern(torch.Size(shape), None)
    assert found.any()
    assert not found.all()
    if len(shape) > 2:  # of agents: another number of them in each row
        assert len(found.sum(-1).unique()) > 1


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


class Functional(LossModule):
    """A loss as TorchRL writes them: parameters apart from a network that is no module of it."""

    @dataclass
    class _AcceptedKeys:
        target: str = "target"
        prediction: str = "prediction"

    default_keys = _AcceptedKeys
    out_keys = ["loss"]
    network: TensorDictModule
    network_params: object
    target_network_params: object

    def __init__(self, network):
        super().__init__()
        self.convert_to_functional(network, "network")

    def _forward_value_estimator_keys(self, **_):
        pass

    @property
    def in_keys(self):
        return [*self.network.in_keys, self.tensor_keys.target]

    @in_keys.setter
    def in_keys(self, keys):
        pass

    def forward(self, tensordict):
        tensordict = tensordict.copy()
        target = tensordict.get(self.tensor_keys.target, None)
        if target is None:
            raise KeyError(f"needs {self.tensor_keys.target!r}")
        with self.network_params.to_module(self.network):
            found = self.network(tensordict).get(self.tensor_keys.prediction, None)
        if found is None:
            raise KeyError(f"needs {self.tensor_keys.prediction!r}")
        return TensorDict({"loss": (found - target).square().mean()})


def test_a_functional_loss_can_pass_renamed_keys():
    network = TensorDictModule(nn.Linear(3, 2), ["observation"], ["prediction"])
    batch = TensorDict({"observation": torch.randn(8, 3), "target": torch.randn(8, 2)}, [8])
    broken = check_loss_module(Functional(network), batch, report=True)
    assert "renamed_keys" not in broken
    assert "default_keys" not in broken


def test_keys_that_were_set_are_not_taken_for_the_default():
    loss, batch = make_world(), make_batch()
    loss.set_keys(reward=("agents", "earned"))
    batch["next", "agents", "earned"] = batch["next", "agents"].pop("reward")
    assert check_loss_module(loss, batch) == {}
    assert loss.tensor_keys.reward == ("agents", "earned")


def test_every_broken_rule_is_told_with_the_entry_that_did_it():
    class Two(WorldModelLoss):
        def forward(self, tensordict):
            out = super().forward(tensordict)
            latent = tensordict["agents", "latent"]
            return out.set("loss_obs", (out["loss_obs"] + latent.sum()).detach())

    loss = Two(make_world().world_model)
    broken = check_loss_module(loss, make_batch(), report=True)
    assert {"in_keys", "terms_and_logs", "padding"} <= broken.keys()
    with pytest.raises(AssertionError) as error:
        check_loss_module(loss, make_batch(), skip=["in_keys"])
    lines = str(error.value).split("\n")
    assert [line.split(":")[0] for line in lines][:2] == ["terms_and_logs", "gradients"]


def test_an_entry_outside_in_keys_is_named():
    class Reads(WorldModelLoss):
        def forward(self, tensordict):
            out = super().forward(tensordict)
            extra = tensordict.get(("agents", "latent"), None)
            extra = 0.0 if extra is None else 0.0 * extra.nan_to_num(nan=1e9).sum().abs()
            seen = tensordict.get(("agents", "latent"), None)
            return out if seen is None or seen.isfinite().all() else out.apply(lambda x: x * 2.0)

    broken = check_loss_module(Reads(make_world().world_model), make_batch(), report=True)
    assert "other values in ('agents', 'latent')" in broken["in_keys"]


@pytest.mark.parametrize(
    ("loss", "batch", "message"),
    [
        (make_moa, lambda: make_batch((3,)), "4 samples or more"),
        (make_moa, lambda: make_batch()[0, 0], "at least one batch dimension"),
        (
            make_moa,
            lambda: make_batch().exclude("agents"),
            "on which the loss runs.*KeyError.*'agents'",
        ),
    ],
)
def test_a_precondition_is_told_by_itself(loss, batch, message):
    with pytest.raises(ValueError, match=message):
        check_loss_module(loss(), batch())


class OfTheTeam(WorldModelLoss):
    """It reads no entry of the agents at t, and counts the dead at t+1."""

    def _masks(self):
        return []

    def _required_keys(self):
        yield "state"
        yield ("next", "agents", "reward")

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict):
        state, reward = tensordict["state"], tensordict["next", "agents", "reward"]
        rows = tensordict.get(("collector", "mask"), None)
        if rows is not None:
            rows = rows.unsqueeze(-1)
            state = torch.where(rows, state, 0.0)
            reward = torch.where(rows.unsqueeze(-1), reward, 0.0)
            rows = rows.expand(reward.shape[:-1])
        predicted = self.world_model(TensorDict({"state": state}, tensordict.shape))["predicted"]
        error = (predicted - reward).square().squeeze(-1)
        terms = {"loss_obs": self._reduce(error, rows), "loss_reward": self._reduce(error, rows)}
        return TensorDict(terms)


def test_who_is_read_at_the_next_step_alone_has_a_mask():
    network = TensorDictModule(
        torch.nn.Sequential(torch.nn.Linear(7, 3), torch.nn.Unflatten(-1, (3, 1))),
        ["state"],
        ["predicted"],
    )
    batch = make_batch(dead_fraction=0.3)
    batch["state"] = torch.randn(4, 6, 7)
    broken = check_loss_module(OfTheTeam(network), batch, report=True)
    assert "('agents', 'mask')" in broken["masks_exclude"]
