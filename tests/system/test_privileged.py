"""Groups that only the teacher may read: who sees them, and who must not."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import Compose, RewardSum, TransformedEnv, VmasEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.modules import AgentGroup, make_moa_network, make_student
from torchrl_moawm.modules.moa_nets import MOANet, PairwiseMOANet
from torchrl_moawm.transforms import Partner, PartnerPool

OWN = AgentGroup("agents", 2, 5, 3, 3)
PREY = AgentGroup("prey", 2, 4, 2)


def flee(tensordict):
    seen, kind = tensordict["agent", "observation"], tensordict["agent", "type"]
    return seen[..., :2].tanh() * (kind * 2 - 1)[..., None]


def environment():
    env = VmasEnv("simple_tag", num_envs=4, seed=0, num_adversaries=2)
    pool = PartnerPool([Partner(flee, 0), Partner(flee, 1)], group="agent")
    keys = [("adversary", "reward")], [("adversary", "episode_reward")]
    return TransformedEnv(env, Compose(pool, PreviousStep(), RewardSum(*keys)))


def make(**settings):
    env = environment()
    settings = {"privileged": ("agent",), "num_cells": (16,), "latent_dim": 4, **settings}
    system = MOAWM.from_env(env, **settings)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return system, env.rollout(5, system.policy)


def reads(network):
    return [key for key in network.in_keys if "agent" in key]


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("reconstruct", ["own", "privileged"])
def test_only_teacher_and_targets_read_them(recurrent, reconstruct):
    system, batch = make(recurrent=recurrent, reconstruct=reconstruct)
    one = system["adversary"]
    assert set(system.groups) == {"adversary"}
    for name, network in one.networks.items():
        assert bool(reads(network)) == (
            name == "teacher" or (name == "student" and reconstruct == "privileged")
        ), name
    assert not reads(system.policy)
    assert ("agent", "action") in one.loss_module["moawm"]["moa"]["agent"].in_keys
    system.value_estimator(batch)
    terms = system.loss_module(batch)
    assert all(term.isfinite().all() for term in terms.values())
    assert {"loss_moa_adversary", "loss_moa_agent"} <= set(terms.keys())


def test_the_encoder_is_the_same_whatever_is_reconstructed():
    system, batch = make(reconstruct="privileged", recurrent=True)
    student = system.student
    other = batch.clone()
    other["agent", "observation"] += 1.0
    encoded, changed = student(batch.clone()), student(other)
    for name in ("latent_loc", "latent_scale"):
        assert torch.equal(encoded["adversary", name], changed["adversary", name])
    difference = changed["adversary", "feature"] - encoded["adversary", "feature"]
    n_seen = batch["agent", "observation"].shape[-1]
    torch.testing.assert_close(difference[..., :n_seen], torch.ones_like(difference[..., :n_seen]))
    assert not difference[..., n_seen:].any()
    shown = encoded["adversary", "feature"][..., n_seen:]
    expected = batch["agent", "action"].expand_as(shown)
    assert torch.equal(shown, expected)
    assert ("adversary", "feature") not in batch.keys(True)  # nobody reconstructs while acting


def test_what_is_reconstructed_is_theirs_and_in_their_order():
    student = make_student(OWN, latent_dim=3, reconstruct_groups=[PREY])
    batch = TensorDict(
        {
            "agents": {
                "observation": torch.randn(7, 2, 5),
                "previous_observation": torch.randn(7, 2, 5),
                "previous_action": torch.randint(3, (7, 2)),
                "previous_mask": torch.ones(7, 2, dtype=torch.bool),
            },
            "prey": {"observation": torch.randn(7, 2, 4), "action": torch.randn(7, 2, 2)},
        },
        [7],
    )
    out = student(batch.clone())["agents"]
    both = torch.cat([batch["prey", "observation"], batch["prey", "action"]], -1)
    assert torch.equal(out["feature"], both.reshape(7, 1, 12).expand(7, 2, 12))
    assert out["reconstruction"].shape == (7, 2, 12)


def test_an_unseen_group_is_predicted_without_being_read():
    network = make_moa_network(OWN, unseen_groups=[PREY], target_group="prey")
    assert {key[0] for key in network.in_keys} == {"agents"}
    batch = TensorDict(
        {
            "previous_observation": torch.randn(7, 2, 5),
            "previous_action": torch.randint(3, (7, 2)),
            "previous_mask": torch.ones(7, 2, dtype=torch.bool),
        },
        [7],
    )
    out = network(TensorDict({"agents": batch}, [7]))["agents"]
    assert out["moa_loc_prey"].shape == out["moa_scale_prey"].shape == (7, 2, 2, 2)
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="'pairwise' reads what 'prey' did, which is unseen"):
        make_moa_network(OWN, unseen_groups=[PREY], target_group="prey", head="pairwise")


def test_the_pairwise_head_serves_the_groups_that_are_seen():
    system, batch = make(moa_head="pairwise")
    networks = system["adversary"].moa_networks
    kinds = {"adversary": type(networks["adversary"][0].module)}  # behind it a distribution
    kinds["agent"] = type(networks["agent"].module)
    assert kinds == {"adversary": PairwiseMOANet, "agent": MOANet}
    system.value_estimator(batch)
    assert system.loss_module(batch)["loss_moa_agent"].isfinite()


def test_errors():
    with pytest.raises(ValueError, match="'adversary' acts, so it cannot be privileged"):
        make(privileged=("adversary",))
    with pytest.raises(ValueError, match="no entry \\('nobody', 'observation'\\)"):
        make(privileged=("nobody",))
    for name, value in (
        ("reconstruct", "privileged"),
        ("teacher_privileged_only", True),
        ("critic_privileged", True),
    ):
        with pytest.raises(ValueError, match=rf"^{name}=.* needs a group to be told of"):
            make(privileged=(), **{name: value})
    with pytest.raises(ValueError, match="reconstruct"):
        make(reconstruct="everything")
