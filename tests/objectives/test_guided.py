"""GuidedPolicyLoss: two policies of one actor, and which of them each term moves."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch.distributions import Categorical, Poisson, kl_divergence
from torchrl.modules import MaskedCategorical, TanhNormal

from tests.objectives.factory import ACTION_TYPES, Z, actor, student, teacher
from torchrl_moawm import GuidedPolicyLoss
from torchrl_moawm.objectives.guided import divergence, parameters
from torchrl_moawm.testing import check_loss_module, make_batch


def make(action_type="categorical", **settings):
    encoders = student(action_type)[0], teacher(action_type)[0]
    names = ("latent_network", "teacher_network")
    return GuidedPolicyLoss(
        actor(action_type), **dict(zip(names, encoders, strict=True)), **settings
    )


def encoder(name, value):
    """An encoder that says the same to everybody."""

    def same(observation):
        return torch.full((*observation.shape[:-1], 1), value)

    return TensorDictModule(same, [("agents", "observation")], [("agents", name)])


def test_by_hand():
    """z is a logit: the teacher's log 3 gives (3/4, 1/4), the student's 0 gives (1/2, 1/2)."""
    network = TensorDictModule(
        lambda z: torch.cat([z, 0 * z], -1), [("agents", "latent")], [("agents", "logits")]
    )
    head = ProbabilisticTensorDictModule(
        {"logits": ("agents", "logits")}, [("agents", "action")], distribution_class=Categorical
    )
    loss = GuidedPolicyLoss(
        ProbabilisticTensorDictSequential(network, head),
        latent_network=encoder("latent_loc", 0.0),
        teacher_network=encoder("teacher_loc", math.log(3.0)),
        imitation_coeff=2.0,
        leash_coeff=3.0,
    )
    out = loss(TensorDict({("agents", "observation"): torch.zeros(4, 2, 1)}, [4]))
    kl = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    found = [out[key].item() for key in ("loss_imitation", "loss_leash", "guidance_gap")]
    assert found == pytest.approx([2 * kl, 3 * kl, kl])


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_what_each_term_trains(action_type):
    trained = {}
    for term in ("loss_imitation", "loss_leash"):
        loss = make(action_type)
        loss(make_batch(action_type=action_type))[term].backward()
        trained[term] = {
            name
            for name in ("actor_network", "latent_network", "teacher_network")
            if any(p.grad is not None and p.grad.any() for p in getattr(loss, name).parameters())
        }
    assert trained["loss_imitation"] == {"actor_network", "latent_network"}
    assert trained["loss_leash"] == {"actor_network", "teacher_network"}


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_the_contract(action_type):
    check_loss_module(make(action_type), make_batch(action_type=action_type))


def test_an_actor_that_reads_no_latent_of_that_name_is_refused():
    """Both policies would be on the stored z, and the loss 0."""
    network = TensorDictModule(lambda z: z, [("agents", "belief")], [("agents", "logits")])
    head = ProbabilisticTensorDictModule(
        {"logits": ("agents", "logits")}, [("agents", "action")], distribution_class=Categorical
    )
    encoders = encoder("latent_loc", 0.0), encoder("teacher_loc", 1.0)
    loss = GuidedPolicyLoss(
        ProbabilisticTensorDictSequential(network, head),
        latent_network=encoders[0],
        teacher_network=encoders[1],
    )
    zeros = torch.zeros(4, 2, 2)
    batch = TensorDict({("agents", name): zeros for name in ("observation", "belief")}, [4])
    with pytest.raises(KeyError, match=r"reads no \('agents', 'latent'\).* but \[\('agents', 'bel"):
        loss(batch)
    loss.set_keys(latent=("agents", "belief"))
    assert loss(batch)["guidance_gap"].item() == 0.0  # one logit says nothing
    assert ("agents", "belief") not in loss.in_keys


def test_who_does_not_act_does_not_count():
    loss, batch = make(reduction="none"), make_batch((6,))
    acts = torch.rand(6, 3) < 0.5
    batch["agents", "mask"] = acts
    gap = loss(batch)["loss_imitation"]
    assert torch.equal(gap != 0, acts)
    loss.reduction = "mean"
    torch.testing.assert_close(loss(batch)["loss_imitation"], gap[acts].mean())


def distributions():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4).double()
    loc, scale = torch.randn(2, 5, 3).double(), torch.rand(2, 5, 3).double() + 0.5
    return {
        "categorical": [Categorical(logits=x) for x in logits],
        "squashed": [TanhNormal(m, s, event_dims=1) for m, s in zip(loc, scale, strict=True)],
    }


@pytest.mark.parametrize("kind", ["categorical", "squashed"])
def test_the_divergence_beside_samples(kind):
    p, q = distributions()[kind]
    found = divergence(parameters(p), parameters(q))
    torch.manual_seed(1)
    action = p.sample((200_000,))
    sampled = (p.log_prob(action) - q.log_prob(action)).mean(0)
    torch.testing.assert_close(found, sampled, atol=0.02, rtol=0.02)


def test_actions_that_are_not_allowed_have_no_part():
    logits, allowed = torch.randn(2, 5, 4).double(), torch.ones(5, 4, dtype=torch.bool)
    allowed[:, 2] = False
    logits.requires_grad_(True)
    p, q = (MaskedCategorical(logits=x, mask=allowed) for x in logits)
    found = divergence(parameters(p), parameters(q))
    few = [Categorical(logits=x[:, allowed[0]]) for x in logits]
    torch.testing.assert_close(found, kl_divergence(*few))
    found.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[..., 2].any()


def test_other_distributions_are_refused():
    with pytest.raises(TypeError, match="Poisson"):
        parameters(Poisson(torch.ones(2)))


def test_one_policy_has_no_gap():
    loss, batch = make(), make_batch()
    z = torch.randn(*batch.batch_size, 3, Z)
    for network, name in (
        (loss.latent_network, "latent_loc"),
        (loss.teacher_network, "teacher_loc"),
    ):
        key = ("agents", name)
        network.register_forward_hook(lambda _, __, out, key=key: out.set(key, z))
    assert loss(batch)["guidance_gap"] == 0.0
