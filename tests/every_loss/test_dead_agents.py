"""Agents that die: with networks per agent, as if the dead had been taken out of the batch; with
joint networks, whatever lies in their entries."""

import pytest
import torch
from tensordict import TensorDict

from tests.objectives.factory import (
    CELLS,
    LOSSES,
    PER_AGENT,
    A,
    Z,
    agent_group,
    batch64,
    gradients,
    poisoned,
    shaken,
    terms,
)
from torchrl_moawm import ClipPPOValueLoss, MOALoss, TeacherCVAELoss, TeacherVAELoss, WorldModelLoss
from torchrl_moawm.modules import (
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)


@pytest.fixture
def batch(generator):
    """Some 40% of the agents are dead, at the root and at the same samples under next."""
    batch = batch64((5, 6), dead_fraction=0.4, generator=generator)
    assert 10 < batch["agents", "mask"].sum() < 80
    return batch


def per_agent(name, **settings):
    raw = {"normalize_advantage": False} if name == "policy" else {}
    return PER_AGENT[name](**{**raw, **settings}).double()


def without_the_dead(batch):
    """Every living agent as a team of one."""
    alive = batch["agents", "mask"].flatten()

    def taken(team):
        entries = team.reshape(-1).select(*team.keys())
        return TensorDict(entries[alive].to_dict(), [int(alive.sum())]).unsqueeze(1)

    now, after = taken(batch["agents"]), taken(batch["next", "agents"])
    return TensorDict({"agents": now, "next": {"agents": after}}, now.batch_size[:1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", PER_AGENT)
def test_the_dead_might_as_well_not_be_there(name, reduction, batch):
    """Values, gradients, and every logged figure that is not about a shuffled batch."""
    loss = per_agent(name, reduction=reduction)
    found, expected = loss(batch), loss(without_the_dead(batch))
    for key, alone in expected.items():
        if "z_gap" not in key:
            torch.testing.assert_close(found[key], alone, msg=lambda m, k=key: f"{k}: {m}")
    reached = gradients(loss, batch)
    for parameter, gradient in gradients(loss, without_the_dead(batch)).items():
        torch.testing.assert_close(reached[parameter], gradient)
    assert any(gradient.any() for gradient in reached.values())


@pytest.mark.parametrize("name", PER_AGENT)
def test_unreduced_the_dead_are_zero_and_the_living_as_alone(name, batch):
    loss = per_agent(name, reduction="none")
    alive = batch["agents", "mask"]
    found, expected = loss(batch), loss(without_the_dead(batch))
    for key, alone in expected.items():
        if key.startswith("loss"):
            torch.testing.assert_close(found[key][alive].flatten(), alone.flatten())
            assert not found[key][~alive].any()


# ------------------------------------------------------------------------ joint networks


def joint(name):
    """A loss whose network reads everybody, of a second group too."""
    own, others = agent_group(), {"other_groups": [agent_group(n_agents=2, name="foes")], **CELLS}
    make = {
        "moa": lambda: MOALoss(shaken(make_moa_network(own, **others))),
        "moa of foes": lambda: MOALoss(
            shaken(make_moa_network(own, target_group="foes", **others)), target_group="foes"
        ),
        "pairwise": lambda: MOALoss(shaken(make_moa_network(own, head="pairwise", **others))),
        "world_model": lambda: WorldModelLoss(shaken(make_world_model(own, **others))),
        "cvae": lambda: TeacherCVAELoss(
            shaken(make_student(own, latent_dim=Z, **others)),
            shaken(make_teacher(own, latent_dim=Z, **others)),
        ),
        "vae": lambda: TeacherVAELoss(shaken(make_teacher(own, latent_dim=Z, **others))),
        "value": lambda: ClipPPOValueLoss(shaken(make_critic(own, latent_dim=Z, **others))),
        "policy": LOSSES["policy"],
    }
    return make[name]().double()


@pytest.fixture
def two_groups(generator):
    batch = batch64((5, 6), dead_fraction=0.4, generator=generator)
    foes = batch64((5, 6), n_agents=2, group="foes", dead_fraction=0.4, generator=generator)
    return batch.update(foes.select("foes")).update({"next": foes["next"].select("foes")})


@pytest.mark.parametrize("bad", [torch.nan, 1e30, -3.0])
@pytest.mark.parametrize(
    "name", ["moa", "moa of foes", "pairwise", "world_model", "cvae", "vae", "value", "policy"]
)
def test_whatever_is_written_behind_the_dead_changes_nothing(name, bad, two_groups):
    loss, other = joint(name), poisoned(two_groups, "agents", "foes", bad=bad)
    expected, found = loss(two_groups), loss(other)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    reached = gradients(loss, two_groups)
    for parameter, gradient in gradients(loss, other).items():
        assert torch.equal(gradient, reached[parameter]), parameter
    assert any(gradient.any() for gradient in reached.values())


def test_the_living_of_the_other_group_do_matter(two_groups):
    """So the test above can fail."""
    for name in ("moa", "world_model", "cvae", "vae", "value"):
        other = two_groups.clone()
        for entry in ("observation", "action", "previous_action"):
            changed = other["foes", entry]
            other["foes", entry] = (changed + 1) % A if changed.dtype == torch.long else -changed
        loss = joint(name)
        assert not torch.equal(terms(loss(other)), terms(loss(two_groups))), name
