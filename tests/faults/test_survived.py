"""What is legitimate is survived, with the numbers of the plain case."""

import math

import pytest
import torch
from tensordict import lazy_stack
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torch.distributions import Categorical
from torch.testing import assert_close
from torchrl.modules import ProbabilisticActor

from tests.faults.table import build, finite, same, survived
from tests.objectives.factory import (
    ACTION_TYPES,
    LOSSES,
    OBS,
    PER_AGENT,
    A,
    D,
    Heads,
    N,
    batch64,
    gradients,
    make_moa,
    make_policy,
    make_value,
    module,
    poisoned,
    terms,
)
from torchrl_moawm import ClipPPOPolicyLoss, ClipPPOValueLoss, MOALoss
from torchrl_moawm.testing import make_batch

G = "agents"
ONE_BY_ONE = tuple(LOSSES)


@pytest.fixture
def batch(generator):
    return batch64((4, 6), dead_fraction=0.3, generator=generator)


def assert_same_as(name, batch, other):
    """Values, logs and gradients."""
    loss = build(name).double()
    same(loss(other), loss(batch))
    expected = gradients(loss, batch)
    assert_close(gradients(loss, other), expected)
    finite(expected)


# ------------------------------------------------------------------- agents and time


@survived(
    "a group of one",
    "the mean of its valid elements; the model of others is 0",
    (*ONE_BY_ONE, "total"),
)
@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_a_group_of_one(name, action_type, generator):
    """Of the loss of a team of one, element by element; there are no others to model."""
    settings = {"n_agents": 1, "action_type": action_type}
    batch = batch64((4, 6), dead_fraction=0.3, generator=generator, **settings)
    make = {"total": make_moa, **LOSSES}[name]
    loss, every = make(**settings).double(), make(**settings, reduction="none").double()
    every.load_state_dict(loss.state_dict())
    torch.manual_seed(0)  # of the entropy's one sample
    found = loss(batch)
    torch.manual_seed(0)
    elements = every(batch)
    alive = batch[G, "mask"]
    for key, value in found.items():
        if key.startswith("loss"):
            kept = elements[key].reshape(24, -1)[alive.flatten()]
            assert_close(value, kept.mean() if kept.numel() else torch.zeros_like(value))
    reached = gradients(loss, batch)
    assert all(gradient.isfinite().all() for gradient in reached.values())
    moa = name in ("moa", "total")
    assert moa == (not any(gradient.any() for gradient in reached.values()))


@survived("nobody valid", "0, with zero gradient")
@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_nobody_valid(name, action_type, generator):
    batch = batch64((4, 6), action_type=action_type, generator=generator)
    batch[G, "mask"] = torch.zeros_like(batch[G, "mask"])
    loss = build(name, action_type).double()
    for key, value in loss(batch).items():
        assert value.isfinite(), key
        assert not key.startswith("loss") or value == 0.0, key
    assert not any(gradient.any() for gradient in gradients(loss, batch).values())


@survived("NaN behind the mask of the dead", "as without the NaN, gradient included")
def test_nan_behind_the_mask(name, batch):
    assert_same_as(name, batch, poisoned(batch))


@survived("padded rows of zeros", "as without them, gradient included")
@pytest.mark.parametrize("action_type", ["categorical", "one-hot"])
def test_padded_rows(name, action_type, generator):
    """The mask is the collector's alone."""
    batch = batch64((6,), action_type=action_type, generator=generator).exclude((G, "mask"))
    rows = batch[:2].apply(torch.zeros_like)
    padded = torch.cat([batch, rows])
    padded["collector"] = {"mask": (torch.arange(8) < 6).unsqueeze(-1)}
    batch["collector"] = {"mask": torch.ones(6, 1, dtype=torch.bool)}
    loss = build(name, action_type).double()
    same(loss(padded), loss(batch))
    assert_close(gradients(loss, padded), gradients(loss, batch))


@survived(
    "dead agents that do nothing possible",
    "as if they did nothing, gradient included",
    ("moa", "policy", "total"),
)
@pytest.mark.parametrize("action_type", ["categorical", "one-hot"])
def test_dead_agents_that_do_nothing_possible(name, action_type, generator):
    """An action out of range, a mask that allows nothing."""
    batch = batch64((24,), action_type=action_type, dead_fraction=0.3, generator=generator)
    other, dead = batch.clone(), ~batch[G, "mask"]
    other[G, "action"][dead] = 9
    other[G, "action_mask"][dead] = False
    loss = build(name, action_type).double()
    same(loss(other), loss(batch))
    assert_close(gradients(loss, other), gradients(loss, batch))


@survived(
    "NaN behind the mask of a feature",
    "as without the NaN, gradient included",
    ("world_model", "moawm", "total"),
)
def test_nan_behind_a_feature_mask(name, batch):
    other = batch.clone()
    hidden = ~batch["next", G, "observation_mask"]
    other["next", G, "observation"][hidden] = torch.nan
    assert_same_as(name, batch, other)


@survived("one step of time", "as the flattened batch")
def test_one_step_of_time(name, batch):
    flat = batch.reshape(-1)
    assert_same_as(name, flat, flat.unsqueeze(-1))


@survived("one step of time, estimated", "`A = r + gamma V' (1 - terminated) - V`", ("estimator",))
def test_the_advantage_of_one_step(name, generator):
    """A = r + gamma V' (1 - terminated) - V."""
    loss = make_value()
    batch = make_batch((5, 1), generator=generator)
    loss.make_value_estimator(gamma=0.9, lmbda=0.5)
    loss.value_estimator(batch)
    following = batch["next"].clone()
    with torch.no_grad():
        following[G, "latent"] = loss.latent_network(following)[G, "latent_loc"]
        bootstrap = 0.9 * loss.critic_network(following)[G, "state_value"]
        value = loss.critic_network(batch.clone())[G, "state_value"]
    going = ~batch["next", "terminated"].unsqueeze(-1)
    assert_close(batch[G, "advantage"], batch["next", G, "reward"] + bootstrap * going - value)


@survived("advantage of one sample, normalised", "0, with finite gradients", ("policy", "total"))
def test_a_single_advantage_is_normalised_to_zero(name, generator):
    loss, batch = build(name), make_batch((1,), generator=generator)
    assert loss(batch)["loss_objective"] == 0.0
    finite(gradients(loss, batch))


@survived("constant advantage, normalised", "0, with finite gradients", ("policy", "total"))
def test_a_constant_advantage_is_normalised_to_zero(name, batch):
    batch[G, "advantage"] = torch.full_like(batch[G, "advantage"], 0.3)
    loss = build(name).double()
    assert abs(loss(batch)["loss_objective"]) < 1e-9
    finite(gradients(loss, batch))


@survived("optional masks that are missing", "as masks of True")
def test_no_mask_is_a_mask_of_true(name, batch):
    names = [(G, "mask"), (G, "previous_mask"), (G, "action_mask")]
    names.append(("next", G, "observation_mask"))
    read = [key for key in build(name).in_keys if key[-1] == "previous_mask"]
    if name != "moa":  # the student reads previous_mask: as an input it must be there
        names = [key for key in names if key not in read]
    full, without = batch.clone(), batch.exclude(*names)
    for key in names:
        full[key] = torch.ones_like(batch[key])
    if name == "moa":
        head = nn.Sequential(nn.Linear(OBS, (N - 1) * A), nn.Unflatten(-1, (N - 1, A)))
        loss = MOALoss(module(head, ["previous_observation"], ["moa_logits"])).double()
        same(loss(without), loss(full))
        assert_close(gradients(loss, without), gradients(loss, full))
    else:
        assert_same_as(name, full, without)


# ------------------------------------------------------------------- magnitudes


class Pairs(Heads):
    """A Gaussian of every other agent's action."""

    def forward(self, observation):
        return tuple(part.unflatten(-1, (N - 1, D)) for part in super().forward(observation))


def log_scale(name, value):
    """One of the three losses with Gaussians, whose standard deviations are exp(value)."""
    widths = dict.fromkeys(("moa_loc", "moa_scale"), (N - 1) * D)
    network = module(Pairs(OBS, **widths), ["previous_observation"], list(widths))
    loss = (MOALoss(network) if name == "moa" else PER_AGENT[name]()).double()
    for part in loss.children():
        encoder = part if name == "moa" else part[0]
        last = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)][-1]
        half = last.out_features // 2
        last.weight.data[half:], last.bias.data[half:] = 0.0, value
    return loss


@survived(
    "a scale of 0 (log-scale of -1e4)",
    "as a scale of 1e-6, with finite gradients",
    ("moa", "cvae", "vae"),
)
def test_a_scale_of_zero(name, generator):
    """As 1e-6, the floor: values that are those there, and finite gradients."""
    action_type = "continuous" if name == "moa" else "categorical"
    batch = batch64((4,), action_type=action_type, generator=generator)
    loss, floor = log_scale(name, -1e4), log_scale(name, math.log(1e-6))
    floor.load_state_dict(loss.state_dict())
    for one, two in zip(floor.parameters(), loss.parameters(), strict=True):
        one.data = torch.where(two.data == -1e4, math.log(1e-6), two.data)
    found, expected = loss(batch), floor(batch)
    for key, value in expected.items():
        if key.startswith("loss"):
            assert_close(found[key], value, rtol=1e-6, atol=1e-6)
    finite(gradients(loss, batch))


@survived(
    "raw log-scale of +-1e4 in a Gaussian head",
    "finite, with finite gradients",
    ("moa", "cvae", "vae", "policy"),
)
@pytest.mark.parametrize("raw", [1e4, -1e4], ids=["+", "-"])
def test_a_raw_scale_of_ten_thousand(name, raw, generator):
    batch = make_batch((4,), action_type="continuous", generator=generator)
    loss, heads = build(name, "continuous"), 0
    for part in loss.modules():
        if type(part).__name__ in ("StudentEncoder", "TeacherEncoder", "MOANet", "ActorNet"):
            last = [m for m in part.modules() if isinstance(m, nn.Linear)][-1]
            last.bias.data[len(last.bias) // 2 :] = raw
            heads += 1
    assert heads
    for key, value in loss(batch).items():
        assert value.isfinite(), key
    finite(gradients(loss, batch))


class Forbidding(nn.Module):
    """Logits that are ``-inf`` (or very low) where the action mask forbids."""

    def __init__(self, low, others=False):
        super().__init__()
        self.net, self.low, self.others = nn.Linear(OBS, A), low, others

    def forward(self, observation, allowed):
        logits = self.net(observation)
        if self.others:
            logits = logits.unsqueeze(-2).expand(*logits.shape[:-1], N - 1, A)
            order = [[j for j in range(N) if j != i] for i in range(N)]
            allowed = allowed[..., order, :]
        return logits.masked_fill(~allowed, self.low)


def forbidding(name, low):
    torch.manual_seed(0)
    if name == "moa":
        entries = ["previous_observation", "action_mask"]
        return MOALoss(module(Forbidding(low, others=True), entries, ["moa_logits"])).double()
    logits = module(Forbidding(low), ["observation", "action_mask"], ["logits"])
    actor = ProbabilisticActor(
        logits,
        in_keys={"logits": (G, "logits")},
        out_keys=[(G, "action")],
        distribution_class=Categorical,
    )
    return ClipPPOPolicyLoss(actor).double()


@survived(
    "logits of -inf from action masks", "as very low ones, with finite gradients", ("moa", "policy")
)
def test_logits_of_minus_infinity(name, batch, boolean):
    taken = nn.functional.one_hot(batch[G, "action"], A).bool()
    batch[G, "action_mask"] = taken | boolean(4, 6, N, A, p=0.4)
    batch[G, "action_mask"] &= batch[G, "mask"].unsqueeze(-1)  # to the dead, nothing is allowed
    loss, finite_one = forbidding(name, -torch.inf), forbidding(name, -1e300)
    same(loss(batch), finite_one(batch))
    reached = gradients(loss, batch)
    assert_close(reached, gradients(finite_one, batch))
    finite(reached)


@survived(
    "ratio overflow",
    "clamped at `exp(20)`, counted in `ratio_overflow`, with finite gradients",
    ("policy", "total"),
)
def test_a_ratio_that_overflows_is_clamped_and_counted(name, generator):
    """exp(800) is infinite; the bound is exp(20)."""
    batch = make_batch((6,), generator=generator)
    batch[G, "advantage"] = -torch.ones(6, N, 1)
    batch[G, "action_log_prob"][2, 1] = -800.0
    batch[G, "action_log_prob"][3, 0] = -15.0  # large, but within the bound
    loss = build(name) if name == "total" else make_policy(normalize_advantage=False)
    found = loss(batch)
    assert_close(found["ratio_overflow"], torch.tensor(1 / 18))
    assert all(value.isfinite() for value in found.values())
    if name == "policy":
        batch[G, "action_log_prob"][2, 1] = 0.0
        rest = 18 * loss(batch)["loss_objective"]
        log_prob = loss.actor_network.get_dist(batch).log_prob(batch[G, "action"])[2, 1]
        expected = (rest - log_prob.exp().clamp_min(0.8) + torch.tensor(20.0).exp()) / 18
        assert_close(found["loss_objective"], expected)
        assert loss(batch)["ratio_overflow"] == 0.0
        batch[G, "action_log_prob"][2, 1] = -800.0
    finite(gradients(loss, batch))


# ------------------------------------------------------------------- how a batch is stored


@survived("a batch that is not contiguous", "as the contiguous one")
def test_not_contiguous(name, batch):
    other = batch.transpose(0, 1).contiguous().transpose(0, 1)
    assert not other[G, "observation"].is_contiguous()
    assert_same_as(name, batch, other)


@survived("an expanded batch", "as the copied one")
def test_expanded(name, batch):
    """Three times the same: of every mean, the same."""
    rows = batch.reshape(-1)
    other = rows.expand(3, *rows.shape)
    assert other[G, "observation"].stride(0) == 0
    loss = build(name).double()
    copied = torch.stack([rows] * 3)
    same(loss(other), loss(copied))
    assert_close(gradients(loss, other), gradients(loss, copied))


@survived("a lazily stacked batch", "as the dense one")
def test_lazily_stacked(name, batch):
    assert_same_as(name, batch, lazy_stack([row.clone() for row in batch]))


@survived("a memory-mapped batch", "as the one in memory")
def test_memory_mapped(name, batch, tmp_path):
    assert_same_as(name, batch, batch.memmap(tmp_path))


@survived("more leading dimensions", "as the flattened batch")
def test_more_leading_dimensions(name, batch):
    assert_same_as(name, batch.reshape(-1), batch.reshape(2, 2, 3, 2))


@survived("stored entries that carry gradient", "as detached; no gradient leaves through them")
@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_stored_entries_that_carry_gradient(name, action_type, generator):
    """A batch is data: whoever made its targets, inputs and stored outputs left the graph on."""
    batch = batch64((6,), action_type=action_type, dead_fraction=0.3, generator=generator)
    other = batch.apply(lambda x: x.clone().requires_grad_() if x.is_floating_point() else x)
    loss = build(name, action_type).double()
    torch.manual_seed(0)
    expected = loss(batch)
    torch.manual_seed(0)
    found = loss(other)
    same(found, expected)
    terms(found).backward()
    entries = other.items(include_nested=True, leaves_only=True)
    assert [key for key, entry in entries if entry.grad is not None] == []
    finite({k: p.grad for k, p in loss.named_parameters() if p.grad is not None})


@survived("a teacher that carries gradient", "a target; no gradient reaches it", ("cvae", "moawm"))
def test_a_teacher_that_carries_gradient(name, batch):
    """It is a target: nothing reaches it."""
    loss = build(name).double()
    cvae = loss if name == "cvae" else loss["cvae"]
    terms(loss(batch)).backward()
    assert all(p.requires_grad for p in cvae.teacher.parameters())
    assert all(p.grad is None or not p.grad.any() for p in cvae.teacher.parameters())
    assert any(p.grad.any() for p in cvae.student.parameters())


@survived("bfloat16 autocast", "float32, near the result without, and so is the gradient")
@pytest.mark.parametrize("action_type", ["categorical", "continuous"])
def test_autocast(name, action_type, generator):
    """Terms and logs in float32, near those without; so are the gradients."""
    batch = make_batch((64,), action_type=action_type, dead_fraction=0.3, generator=generator)
    if action_type == "continuous":
        batch[G, "action"] = batch[G, "action"].clamp(-0.9, 0.9)
    loss = build(name, action_type)
    torch.manual_seed(0)
    expected, reached = loss(batch), gradients(loss, batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(batch)
        again = gradients(loss, batch)
    for key, value in found.items():
        assert value.dtype == torch.float32, key
        if "units" not in key and "fraction" not in key and "accuracy" not in key:
            assert_close(
                value, expected[key], rtol=0.03, atol=0.03, msg=lambda m, k=key: f"{k} {m}"
            )
    finite(again)
    one, two = (torch.cat([x.flatten() for x in g.values()]) for g in (again, reached))
    assert torch.nn.functional.cosine_similarity(one, two, 0) > 0.99


@pytest.mark.parametrize("bad", [False, True])
def test_a_nested_entry_is_read_entry_by_entry(bad, generator):
    """A network may read a whole tensordict; masked and checked is each of its entries."""

    class Own(TensorDictModuleBase):
        in_keys, out_keys = [(G, "sight")], [(G, "state_value")]

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(OBS, 1)

        def forward(self, tensordict):
            return tensordict.set((G, "state_value"), self.net(tensordict[G, "sight", "near"]))

    batch = make_batch((4,), dead_fraction=0.4, generator=generator)
    loss, alive = ClipPPOValueLoss(Own()), batch[G, "mask"]
    batch[G, "sight", "near"] = batch[G, "observation"].clone()
    expected = loss(batch)
    where = alive if bad else ~alive
    assert where.any()
    batch[G, "sight", "near"][where] = torch.nan
    if bad:
        with pytest.raises(ValueError, match=r"\('agents', 'sight'\) has .* NaN or infinite"):
            loss(batch)
    else:
        same(loss(batch), expected)
