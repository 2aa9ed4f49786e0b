"""Agents that die: with networks per agent, as if the dead had been taken out of the batch; with
joint networks, whatever lies in their entries."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical, Independent, Normal
from torchrl.modules import RunningValueNorm

from tests.objectives.factory import (
    CELLS,
    LOSSES,
    OBS,
    A,
    D,
    N,
    Z,
    agent_group,
    batch64,
    gradients,
    shaken,
    spoil,
    terms,
)
from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    MOALoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.modules import (
    GaussianSampler,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)

SEEN = 7  # of the others, by a teacher per agent: any feature of the batch


@pytest.fixture
def batch(generator):
    """Some 40% of the agents are dead, at the root and at the same samples under next."""
    batch = batch64((5, 6), dead_fraction=0.4, generator=generator)
    assert 10 < batch["agents", "mask"].sum() < 80
    return batch


def own(network, names, written):
    """A network that reads the agent's own entries."""
    in_keys, out_keys = ([("agents", name) for name in keys] for keys in (names, written))
    return TensorDictModule(network.double(), in_keys, out_keys)


class Joined(nn.Module):
    """A linear layer on its inputs side by side; with a floor, the second half is a scale."""

    def __init__(self, inputs, outputs, halves=False):
        super().__init__()
        self.net = nn.Linear(inputs, outputs * (2 if halves else 1))
        self.halves = halves

    def forward(self, *inputs):
        out = self.net(torch.cat([x.double() for x in inputs], -1))
        if not self.halves:
            return out
        loc, raw = out.chunk(2, -1)
        return loc, raw.exp()


class Encoder(Joined):
    """Also writes what is to be reconstructed."""

    def forward(self, *inputs):
        return *super().forward(*inputs), inputs[0]


def autoencoder(prefix, read, feature):
    names = [f"{prefix}{x}" for x in ("loc", "scale", "latent")]
    names = ["latent_loc", "latent_scale", "latent"] if prefix == "" else names
    keys = [("agents", name) for name in names]
    return TensorDictSequential(
        own(Encoder(OBS * len(read), Z, halves=True), read, [*names[:2], feature]),
        GaussianSampler(*keys, ("agents", "latent_noise")),
        own(Joined(Z, OBS), [names[2]], [f"{prefix}reconstruction"]),
    )


def per_agent(name, **settings):
    """The loss with networks that read nobody else."""
    student = autoencoder("", ["observation", "previous_observation"], "feature")
    teacher = autoencoder("teacher_", ["observation"], "teacher_feature")
    if name == "world_model":
        net = own(
            Joined(OBS, OBS), ["observation"], ["predicted_observation"]
        )  # and the reward from the same
        reward = own(Joined(OBS, 1), ["observation"], ["predicted_reward"])
        return WorldModelLoss(TensorDictSequential(net, reward), **settings)
    if name == "cvae":
        return TeacherCVAELoss(student, teacher, **settings)
    if name == "vae":
        return TeacherVAELoss(teacher, **settings)
    if name == "value":
        critic = own(Joined(OBS + Z, 1), ["observation", "latent"], ["state_value"])
        return ClipPPOValueLoss(critic, **settings)
    actor = make_actor(agent_group(), latent_dim=Z, num_cells=(4,))
    settings = {"normalize_advantage": False, **settings}
    return ClipPPOPolicyLoss(shaken(actor.double()), **settings)


def without_the_dead(batch):
    """Every living agent as a team of one."""
    alive = batch["agents", "mask"].flatten()

    def taken(team):
        entries = team.reshape(-1).select(*team.keys())
        return TensorDict(entries[alive].to_dict(), [int(alive.sum())]).unsqueeze(1)

    kept = TensorDict(
        {"agents": taken(batch["agents"]), "next": {"agents": taken(batch["next", "agents"])}},
        [int(alive.sum())],
    )
    return kept


OWN = ("world_model", "cvae", "vae", "value", "policy")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", OWN)
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


@pytest.mark.parametrize("name", OWN)
def test_unreduced_the_dead_are_zero_and_the_living_as_alone(name, batch):
    loss = per_agent(name, reduction="none")
    alive = batch["agents", "mask"]
    found, expected = loss(batch), loss(without_the_dead(batch))
    for key, alone in expected.items():
        if key.startswith("loss"):
            torch.testing.assert_close(found[key][alive].flatten(), alone.flatten())
            assert not found[key][~alive].any()


def test_the_advantage_is_normalised_over_the_living_of_each_agent(batch):
    loss = per_agent("policy", normalize_advantage=True)
    plain = per_agent("policy")
    plain.load_state_dict(loss.state_dict())
    by_hand = batch.clone()
    for agent in range(N):
        alive = batch["agents", "mask"][..., agent]
        advantage = batch["agents", "advantage"][..., agent, 0][alive]
        normal = (advantage - advantage.mean()) / advantage.std()
        by_hand["agents", "advantage"][..., agent, 0][alive] = normal
    expected = plain(without_the_dead(by_hand))
    torch.testing.assert_close(loss(batch)["loss_objective"], expected["loss_objective"])


# -------------------------------------------------------------------- pairs, one by one


def moa(kind):
    outputs = (N - 1) * A if kind == "categorical" else (N - 1) * D
    net = Joined(OBS, outputs, halves=kind != "categorical")

    class Slots(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            out = self.net(x)
            if kind == "categorical":
                return out.unflatten(-1, (N - 1, A))
            return tuple(part.unflatten(-1, (N - 1, D)) for part in out)

    written = ["moa_logits"] if kind == "categorical" else ["moa_loc", "moa_scale"]
    return own(Slots(), ["previous_observation"], written)


def pair_by_pair(network, batch, kind):
    """-log p of what j does, of every pair of whom i has acted before and j acts."""
    agents, found, hits = batch["agents"], [], []
    for index in torch.cartesian_prod(*map(torch.arange, batch.shape)).tolist():
        one = agents[tuple(index)]
        for i in range(N):
            out = network.module(one["previous_observation"][i])
            for slot, j in enumerate(j for j in range(N) if j != i):
                if one["previous_mask"][i] and one["mask"][j]:
                    if kind == "categorical":
                        dist = Categorical(logits=out[slot])
                        hits.append(float(out[slot].argmax() == one["action"][j]))
                    else:
                        dist = Independent(Normal(out[0][slot], out[1][slot]), 1)
                    found.append(-dist.log_prob(one["action"][j]))
    return torch.stack(found), hits


@pytest.mark.parametrize("kind", ["categorical", "continuous"])
def test_the_model_of_others_counts_the_living_pairs(kind, generator):
    batch = batch64((4, 3), action_type=kind, dead_fraction=0.4, generator=generator)
    loss = MOALoss(moa(kind))
    nll, hits = pair_by_pair(loss.moa_network, batch, kind)
    assert 5 < len(nll) < 60
    found = loss(batch)
    torch.testing.assert_close(found["loss_moa"], nll.mean())
    if hits:
        assert found["moa_accuracy"].item() == pytest.approx(sum(hits) / len(hits))
    parameters = list(loss.moa_network.parameters())
    expected = torch.autograd.grad(nll.mean(), parameters)
    for one, two in zip(torch.autograd.grad(terms(found), parameters), expected, strict=True):
        torch.testing.assert_close(one, two)


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


def overwritten(batch, bad):
    """Anything in the entries of the dead, and in the previous ones of who had not acted."""
    out = batch.clone()
    for group in ("agents", "foes"):
        alive, before = batch[group, "mask"], batch[group, "previous_mask"]
        for name, entry in batch[group].items():
            if name in ("mask", "action_mask", "previous_mask"):
                continue
            out[group, name] = spoil(entry, before if name.startswith("previous_") else alive)
            if bad is not None and entry.is_floating_point():
                out[group, name] = out[group, name].nan_to_num(nan=bad)
        for name, entry in batch["next", group].items():
            if entry.is_floating_point():
                out["next", group, name] = spoil(entry, alive).nan_to_num(
                    nan=torch.nan if bad is None else bad
                )
    return out


@pytest.mark.parametrize("bad", [None, 1e30, -3.0], ids=["nan", "huge", "other"])
@pytest.mark.parametrize(
    "name", ["moa", "moa of foes", "pairwise", "world_model", "cvae", "vae", "value", "policy"]
)
def test_whatever_is_written_behind_the_dead_changes_nothing(name, bad, two_groups):
    loss, other = joint(name), overwritten(two_groups, bad)
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


# ------------------------------------------------------------------------- the advantage

GAMMA, LMBDA = 0.9, 0.8


@pytest.fixture
def lives(normal):
    """Two environments of six steps; who dies acts at the step at which it dies, never after."""
    last = torch.tensor([[5, 2, 0], [3, 5, 4]])  # the last step of each agent
    time = torch.arange(6).view(1, 6, 1)
    mask = time <= last.unsqueeze(1)
    ends = (time == last.unsqueeze(1)) & (last.unsqueeze(1) < 5)
    done = (ends | ~mask).unsqueeze(-1)

    def team(**entries):
        return TensorDict(entries, [2, 6, N])

    before = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1]], 1)  # as step_mdp carries it
    now = team(observation=normal(2, 6, N, OBS), mask=mask, done=before, terminated=before.clone())
    after = team(
        observation=normal(2, 6, N, OBS),
        reward=normal(2, 6, N, 1),
        mask=mask & ~ends,
        done=done,
        terminated=done.clone(),
    )
    after["observation"][:, :-1] = now["observation"][:, 1:]
    return TensorDict({"agents": now, "next": {"agents": after}}, [2, 6])


def make_value(critic, **settings):
    loss = ClipPPOValueLoss(critic, **settings)
    loss.set_keys(done=("agents", "done"), terminated=("agents", "terminated"))
    return loss.make_value_estimator(gamma=GAMMA, lmbda=LMBDA)


def test_the_step_at_which_an_agent_dies_counts(lives):
    """Of each agent by itself: GAE over its own trajectory, cut behind its death."""
    critic = own(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    make_value(critic).value_estimator(lives)
    agents, after = lives["agents"], lives["next", "agents"]
    with torch.no_grad():
        value = critic.module(agents["observation"])[..., 0]
        value_next = critic.module(after["observation"])[..., 0]
    for e in range(2):
        for n in range(N):
            trace = 0.0
            steps = int(agents["mask"][e, :, n].sum())
            for t in reversed(range(steps)):
                died = after["terminated"][e, t, n, 0]
                bootstrap = 0.0 if died else GAMMA * value_next[e, t, n]
                delta = after["reward"][e, t, n, 0] + bootstrap - value[e, t, n]
                trace = delta + (0.0 if died else GAMMA * LMBDA * trace)
                torch.testing.assert_close(agents["advantage"][e, t, n, 0], trace)
                target = agents["value_target"][e, t, n, 0]
                torch.testing.assert_close(target, trace + value[e, t, n])
            assert steps == 6 or after["terminated"][e, steps - 1, n, 0]


@pytest.mark.parametrize("bad", [torch.nan, 1e30])
def test_the_advantage_of_the_living_reads_nothing_of_the_dead(lives, bad):
    loss = make_value(shaken(make_critic(agent_group(), **CELLS)).double())
    expected = loss.value_estimator(lives.clone())
    other = lives.clone()
    alive = lives["agents", "mask"]
    for key in ("observation", ("next", "observation"), ("next", "reward")):
        key = ("agents", key) if isinstance(key, str) else ("next", "agents", key[1])
        keep = lives["next", "agents", "mask"] if key[-1] == "observation" else alive
        keep = alive if key[0] == "agents" else keep
        other[key] = spoil(lives[key], keep).nan_to_num(nan=bad)
    found = loss.value_estimator(other)
    for name in ("advantage", "value_target", "state_value"):
        assert torch.equal(found["agents", name][alive], expected["agents", name][alive]), name


def test_a_value_norm_knows_the_returns_of_the_living(lives):
    critic = own(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    norm = RunningValueNorm(shape=1)
    loss = make_value(critic, value_norm=norm, clip_value=None)
    loss.value_estimator(lives)
    loss(lives)
    living = lives["agents", "value_target"][lives["agents", "mask"]]
    assert norm.count == len(living)
    torch.testing.assert_close(norm.mean.double(), living.mean().reshape(1), rtol=1e-5, atol=1e-6)
