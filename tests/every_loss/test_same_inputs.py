"""A network inside a loss reads, bit for bit, what it read when the agent acted."""

import pytest
import torch
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from tests.kinds import KINDS, acts, make_kind
from tests.objectives.factory import shaken
from torchrl_moawm import MOAWM
from torchrl_moawm.modules import AgentGRU
from torchrl_moawm.modules.actor import ActorNet
from torchrl_moawm.modules.cvae import StudentEncoder

STEPS = 12


def acting_networks(one):
    """By name, the modules of a group's policy that read the batch."""
    found = {}
    for name, network in (
        ("actor", one.actor),
        ("student", one.student),
        *one.moa_networks.items(),
    ):
        for module in network.modules():
            if isinstance(module, (ActorNet, StudentEncoder)):
                found[name] = module
            if isinstance(module, AgentGRU):
                found[f"{name}'s memory"] = module.features
    return found


class Recorder:
    """What modules are given, by name, call after call."""

    def __init__(self, modules):
        self.calls = {name: [] for name in modules}
        self.hooks = [
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: self.calls[name].append([x.detach() for x in inputs])
            )
            for name, module in modules.items()
        ]

    def __enter__(self):
        return self.calls

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(scope="module", params=[False, True], ids=["feed-forward", "recurrent"])
def recurrent(request):
    return request.param


@pytest.fixture(scope="module", params=KINDS)
def played(request, recurrent):
    """A system, a batch ``[E, T]`` over several episodes, and what its networks read in it."""
    torch.manual_seed(0)
    env = make_kind(request.param, num_envs=2)
    system = MOAWM.from_env(env, recurrent=recurrent, latent_dim=2, num_cells=(6,))
    modules = {}
    for group, one in system.groups.items():
        for network in one.networks.values():
            shaken(network)
        modules |= {(group, name): m for name, m in acting_networks(one).items()}
    random = set_exploration_type(ExplorationType.RANDOM)
    with Recorder(modules) as calls, torch.no_grad(), random:
        batch = env.rollout(STEPS, system.policy, break_when_any_done=False)
    read = {
        key: [torch.stack(steps, 1) for steps in zip(*found, strict=True)]
        for key, found in calls.items()
    }
    return system, batch, modules, read


def paths(system):
    return {
        name: (g.group,) if isinstance(g.group, str) else g.group
        for name, g in system.groups.items()
    }


def assert_same(found, expected, acting):
    """Equal, bit by bit, in the rows of those who act; an expanded entry of the rest is equal."""
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.shape == two.shape
        assert torch.equal(one[acting], two[acting])


def whole(batch):
    return [(batch, slice(None), 0)]


def cut(batch):
    """Sequences that begin amid episodes."""
    return [(batch[:, 3:7], slice(None), 3), (batch[:, 7:], slice(None), 7)]


@pytest.mark.parametrize("parts", [whole, cut], ids=["whole", "cut"])
def test_inputs_are_those_of_acting(played, parts):
    system, batch, modules, read = played
    batch = system.value_estimator(batch.clone())
    for part, envs, start in parts(batch):
        with Recorder(modules) as calls:
            system.loss_module(part)
        for (name, module), found in calls.items():
            group = paths(system)[name]
            acting = acts(part, group)
            expected = [x[envs, start : start + part.shape[1]] for x in read[name, module]]
            assert found, (name, module)
            for call in found:
                # entries of other groups have other agents: those are compared whole
                own = [x for x in call if x.shape[2] == acting.shape[2]]
                own_read = [x for x in expected if x.shape[2] == acting.shape[2]]
                assert_same(own, own_read, acting)
                for one, two in zip(call, expected, strict=True):
                    if one.shape[2] != acting.shape[2]:
                        assert torch.equal(one, two), (name, module)


def test_what_everybody_did_is_read_whole(played):
    """The joint previous action and its mask: of all agents, not of those alone who act now."""
    system, batch, _, _ = played
    for one in system.groups.values():
        loss = one.loss_module["moawm"]["cvae"]
        inputs = loss._view(batch).inputs(one.student)
        for key in one.student.in_keys:
            if key[-1] in ("previous_action", "previous_mask"):
                assert torch.equal(inputs[key], batch[key]), key


def replayed(system, batch):
    """Latent, memory and log-probability as the losses have them, on a batch ``[*B, T]``."""
    out = {}
    for name, one in system.groups.items():
        loss = one.loss_module["moawm"]["cvae"]
        inputs = loss._view(batch).inputs(one.student)
        noise = (*paths(system)[name], "latent_noise")
        inputs.set(noise, torch.zeros_like(batch[(*paths(system)[name], "latent")]))
        student = one.student(inputs)
        policy = one.loss_module["policy"]
        dist = one.actor.get_dist(policy._view(batch).inputs(one.actor))
        action = batch[(*paths(system)[name], "action")]
        out[name] = student[(*paths(system)[name], "latent_loc")], dist.log_prob(action)
    return out


def assert_replayed(system, batch):
    for name, (loc, log_prob) in replayed(system, batch).items():
        path = paths(system)[name]
        acting = acts(batch, path)
        torch.testing.assert_close(loc[acting], batch[(*path, "latent_loc")][acting])
        torch.testing.assert_close(log_prob[acting], batch[(*path, "action_log_prob")][acting])


def test_latent_memory_and_log_probability_are_those_of_acting(played):
    system, batch, _, _ = played
    with torch.no_grad(), set_recurrent_mode(True):
        for part in (batch, batch[:, 3:7], batch[:, 7:]):
            assert_replayed(system, part)


def test_sequences_of_a_slice_sampler(played):
    """It marks every slice start ``is_init``, amid episodes too: the stored state serves."""
    system, batch, _, _ = played
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(batch.numel(), ndim=1),
        sampler=SliceSampler(slice_len=4, traj_key="which", truncated_key=None),
        batch_size=32,
    )
    data = batch.clone()
    data["which"] = torch.arange(2).unsqueeze(-1).expand(2, STEPS).clone()
    buffer.extend(data.reshape(-1))
    sample = buffer.sample().reshape(8, 4)
    if "is_init" in sample:
        assert sample["is_init"][:, 0].all()
    with torch.no_grad(), set_recurrent_mode(True):
        assert_replayed(system, sample)


def test_a_sequence_over_the_seam_of_two_environments(played):
    """``[2, 12]`` as rows of 8: the second begins in one environment and ends in the other."""
    system, batch, _, _ = played
    batch = batch.clone()
    batch["collector", "traj_ids"] = torch.arange(2).unsqueeze(-1).expand(2, STEPS).clone()
    rows = batch.reshape(-1).reshape(3, 8)
    assert (rows["collector", "traj_ids"].diff(dim=1) != 0).any()
    with torch.no_grad(), set_recurrent_mode(True):
        assert_replayed(system, rows)


def test_a_sequence_over_the_seam_of_two_episodes_that_are_under_way(played):
    """No first step says there that a memory ends: the state that was stored there serves."""
    system, batch, _, _ = played
    batch = batch.clone()
    batch["collector", "traj_ids"] = torch.arange(2).unsqueeze(-1).expand(2, STEPS).clone()
    for start in (1, 3, 7):
        row = torch.cat([batch[0, 2:5], batch[1, start : start + 3]]).unsqueeze(0)
        with torch.no_grad(), set_recurrent_mode(True):
            assert_replayed(system, row)
