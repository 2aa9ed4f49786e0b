"""The faults that one sees by looking at the values."""

import torch
from torch import nn

from tests.faults.table import Refused, build, change, put
from tests.objectives.factory import CELLS, A, D, N, Z, agent_group, module, sequence, shaken
from torchrl_moawm import ClipPPOPolicyLoss, MOALoss, TeacherCVAELoss, TeacherVAELoss
from torchrl_moawm.modules import GaussianSampler, make_actor

G = "agents"
NOT_FINITE = "has 1 of ... elements that are NaN or infinite and not masked; the first is at [1, 2"
READS = {  # which loss reads which entry
    (G, "observation"): ("world_model", "cvae", "vae", "value", "policy", "total", "estimator"),
    (G, "previous_observation"): ("moa", "cvae", "moawm", "total"),
    (G, "action"): ("moa", "world_model", "cvae", "vae", "policy", "moawm", "total"),
    (G, "previous_action"): ("moa", "cvae", "moawm", "total"),
    (G, "latent"): ("value", "policy", "total", "estimator"),
    (G, "latent_noise"): ("cvae", "vae", "total"),
    (G, "action_log_prob"): ("policy", "total"),
    (G, "advantage"): ("policy", "total"),
    (G, "value_target"): ("value", "total"),
    (G, "state_value"): ("value", "total"),
    ("next", G, "observation"): ("world_model", "moawm", "total", "estimator"),
    ("next", G, "reward"): ("world_model", "moawm", "total", "estimator"),
}
CHECKED = {}  # these look at values
for key, losses in READS.items():
    CHECKED[f"NaN or inf in {'.'.join(key)}"] = Refused(
        losses,
        (put(key, torch.nan), put(key, torch.inf), put(key, -torch.inf)),
        f"{key!r} {NOT_FINITE}",
        action_type="continuous",
    )


def masked_actor(_=None):
    """A policy that reads the action mask."""
    actor = make_actor(agent_group(), latent_dim=Z, masked=True, **CELLS)
    return ClipPPOPolicyLoss(shaken(actor))


def of_masked(name):
    return masked_actor() if name == "policy" else build(name)


def no_action_left(batch, _):
    batch[G, "action_mask"][1, 2] = False


def own_action_forbidden(batch, _):
    batch[G, "action_mask"][1, 2, batch[G, "action"][1, 2]] = False


class Spread(nn.Module):
    """A linear mean, and a standard deviation that is what it was told."""

    def __init__(self, shape, scale):
        super().__init__()
        self.net, self.shape, self.scale = nn.Linear(5, shape[-1]), shape, scale

    def forward(self, x):
        loc = self.net(x)
        loc = loc.unsqueeze(-2).expand(*x.shape[:-1], *self.shape) if len(self.shape) > 1 else loc
        return loc, torch.full_like(loc, self.scale)


def of_scale(scale, stored=False):
    """The losses with Gaussians of this standard deviation; the feature may be in the batch."""

    def network(prefix, feature):
        names = [prefix + x for x in ("loc", "scale", "latent")]
        names[2] = "latent" if prefix == "latent_" else names[2]
        written = "reconstruction" if prefix == "latent_" else "teacher_reconstruction"
        keys = [(G, name) for name in names]
        return sequence(
            module(Spread((Z,), scale), ["observation"], names[:2]),
            *([] if stored else [module(nn.Identity(), ["observation"], [feature])]),
            GaussianSampler(*keys, (G, "latent_noise")),
            module(nn.Linear(Z, 5), names[2:], [written]),
        )

    def make(name):
        if name == "moa":
            names = ["moa_loc", "moa_scale"]
            return MOALoss(module(Spread((N - 1, D), scale), ["previous_observation"], names))
        teacher = network("teacher_", "teacher_feature")
        return (
            TeacherVAELoss(teacher)
            if name == "vae"
            else TeacherCVAELoss(network("latent_", "feature"), teacher)
        )

    return make


INDEX = "has 1 of ... elements outside 0 .. 3, the actions there are; the first is at [1, 2]"
CHECKED |= {
    "action index out of range": Refused(
        ("moa", "world_model", "cvae", "vae", "policy", "total"),
        (put((G, "action"), A), put((G, "action"), -1)),
        f"('agents', 'action') {INDEX}",
    ),
    "previous action index out of range": Refused(
        ("moa", "cvae", "moawm", "total"),
        (put((G, "previous_action"), A), put((G, "previous_action"), -1)),
        f"('agents', 'previous_action') {INDEX}",
    ),
    "action mask that allows nothing": Refused(
        ("moa", "policy", "total"),
        no_action_left,
        "('agents', 'action_mask') has 1 of ... elements (rows) that allow no action, of agents "
        "that act; the first is at [1, 2]",
        make=of_masked,
    ),
    "action that its mask forbids": Refused(
        ("moa", "policy", "total"),
        own_action_forbidden,
        "('agents', 'action') has 1 of ... elements that ('agents', 'action_mask') forbids",
        make=of_masked,
    ),
    "one-hot row of two actions": Refused(
        ("moa", "policy", "total"),
        lambda batch, _: batch[G, "action"].__setitem__((1, 2), 1),
        "('agents', 'action') has 1 of ... elements (rows) that are not one-hot",
        action_type="one-hot",
    ),
    "continuous action taken for one-hot": Refused(
        ("moa",),
        change((G, "action"), lambda x: torch.randn(*x.shape, A)),
        "('agents', 'action') has ... elements (rows) that are not one-hot",
    ),
    "NaN or inf in agents.feature": Refused(
        ("cvae",),
        (put((G, "feature"), torch.nan), put((G, "feature"), torch.inf)),
        f"('agents', 'feature') {NOT_FINITE}",
        make=of_scale(1.0, stored=True),
    ),
    "negative scale": Refused(
        ("moa", "cvae", "vae"),
        lambda *_: None,
        "_scale') has ... elements that are negative, NaN or infinite; the first is at [0, 0",
        action_type="continuous",
        make=of_scale(-1.0),
    ),
    "infinite scale": Refused(
        ("moa", "cvae", "vae"),
        lambda *_: None,
        "_scale') has ... elements that are negative, NaN or infinite; the first is at [0, 0",
        action_type="continuous",
        make=of_scale(torch.inf),
    ),
}
