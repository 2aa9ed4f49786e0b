"""TorchRL's own losses with small networks, and a batch for each."""

import warnings

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl import objectives
from torchrl.data import Bounded, OneHot
from torchrl.modules import (
    DiffusionActor,
    MultiAgentMLP,
    OneHotCategorical,
    ProbabilisticActor,
    QMixer,
    QValueActor,
    QValueModule,
    SafeSequential,
    TanhNormal,
    ValueOperator,
    WorldModel,
)

B, D, A, N = 8, 5, 2, 3
"""Samples, features of an observation, components of an action (or choices), agents."""

SPEC, CHOICES = Bounded(-1, 1, (A,)), OneHot(A)


class Joined(nn.Module):
    """A linear map of what an observation and an action have together."""

    def __init__(self, outputs=1, inputs=D, end=None):
        super().__init__()
        self.net, self.end = nn.Linear(inputs + A, outputs), end

    def forward(self, observation, action):
        joined = torch.cat([observation, action.to(observation.dtype)], -1)
        return self.net(joined) if self.end is None else self.end(self.net(joined))


def actor():
    net = nn.Sequential(nn.Linear(D, 2 * A), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=SPEC,
        distribution_class=TanhNormal,
    )


def chooser():
    return ProbabilisticActor(
        TensorDictModule(nn.Linear(D, A), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=CHOICES,
        distribution_class=OneHotCategorical,
    )


def deterministic():
    net = nn.Sequential(nn.Linear(D, A), nn.Tanh())
    return TensorDictModule(net, ["observation"], ["action"])


def value():
    return ValueOperator(nn.Linear(D, 1), in_keys=["observation"])


def action_value(outputs=1):
    return ValueOperator(Joined(outputs), in_keys=["observation", "action"])


def values(name="action_value"):
    return TensorDictModule(nn.Linear(D, A), ["observation"], [name])


def greedy():
    return QValueActor(nn.Linear(D, A), in_keys=["observation"], spec=CHOICES)


# -------------------------------------------------------------------- several agents


def team_mlp(outputs, centralized=False):
    return MultiAgentMLP(D, outputs, N, centralized=centralized, share_params=True, num_cells=[8])


def team_actor():
    net = nn.Sequential(team_mlp(2 * A), NormalParamExtractor())
    parameters = [("agents", "loc"), ("agents", "scale")]
    return ProbabilisticActor(
        TensorDictModule(net, [("agents", "observation")], parameters),
        in_keys=parameters,
        out_keys=[("agents", "action")],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )


def team_ppo(loss, centralized):
    critic = TensorDictModule(
        team_mlp(1, centralized), [("agents", "observation")], [("agents", "state_value")]
    )
    made = loss(team_actor(), critic)
    made.set_keys(**{x: ("agents", x) for x in ("action", "reward", "advantage", "value_target")})
    made.set_keys(value=("agents", "state_value"))
    return made


def mixer():
    module = TensorDictModule(
        team_mlp(A), [("agents", "observation")], [("agents", "action_value")]
    )
    choice = QValueModule(
        action_value_key=("agents", "action_value"),
        out_keys=[("agents", x) for x in ("action", "action_value", "chosen_action_value")],
        action_space="one-hot",
    )
    mixing = TensorDictModule(
        QMixer(state_shape=(D,), mixing_embed_dim=8, n_agents=N, device="cpu"),
        in_keys=[("agents", "chosen_action_value"), "state"],
        out_keys=["chosen_action_value"],
    )
    loss = objectives.QMixerLoss(SafeSequential(module, choice), mixing, action_space="one-hot")
    loss.set_keys(
        action_value=("agents", "action_value"),
        action=("agents", "action"),
        local_value=("agents", "chosen_action_value"),
    )
    return loss


def world_model():
    return WorldModel(
        TensorDictModule(nn.Linear(D, 4), ["observation"], ["latent"]),
        TensorDictModule(Joined(4, inputs=4), ["latent", "action"], [("next", "latent")]),
        TensorDictModule(nn.Linear(4, 1), [("next", "latent")], [("next", "reward")]),
    )


LOSSES = {
    "A2CLoss": lambda: objectives.A2CLoss(actor(), value()),
    "ReinforceLoss": lambda: objectives.ReinforceLoss(actor(), value()),
    "PPOLoss": lambda: objectives.PPOLoss(actor(), value()),
    "ClipPPOLoss": lambda: objectives.ClipPPOLoss(actor(), value()),
    "KLPENPPOLoss": lambda: objectives.KLPENPPOLoss(actor(), value()),
    "MAPPOLoss": lambda: team_ppo(objectives.MAPPOLoss, True),
    "IPPOLoss": lambda: team_ppo(objectives.IPPOLoss, False),
    "QMixerLoss": mixer,
    "DQNLoss": lambda: objectives.DQNLoss(greedy(), action_space="one-hot"),
    "DiscreteCQLLoss": lambda: objectives.DiscreteCQLLoss(greedy(), action_space="one-hot"),
    "DiscreteSACLoss": lambda: objectives.DiscreteSACLoss(
        chooser(), values(), action_space="one-hot", num_actions=A
    ),
    "DiscreteIQLLoss": lambda: objectives.DiscreteIQLLoss(
        chooser(), values("state_action_value"), value(), action_space="one-hot"
    ),
    "DDPGLoss": lambda: objectives.DDPGLoss(deterministic(), action_value()),
    "TD3Loss": lambda: objectives.TD3Loss(deterministic(), action_value(), bounds=(-1, 1)),
    "TD3BCLoss": lambda: objectives.TD3BCLoss(deterministic(), action_value(), bounds=(-1, 1)),
    "SACLoss": lambda: objectives.SACLoss(actor(), action_value()),
    "CrossQLoss": lambda: objectives.CrossQLoss(actor(), action_value()),
    "TQCLoss": lambda: objectives.TQCLoss(actor(), action_value(7)),
    "REDQLoss": lambda: objectives.REDQLoss(actor(), action_value()),
    "IQLLoss": lambda: objectives.IQLLoss(actor(), action_value(), value()),
    "CQLLoss": lambda: objectives.CQLLoss(actor(), action_value(), action_spec=SPEC),
    "BCLoss": lambda: objectives.BCLoss(actor()),
    "DiffusionBCLoss": lambda: objectives.DiffusionBCLoss(DiffusionActor(A, D, num_steps=4)),
    "DTLoss": lambda: objectives.DTLoss(deterministic()),
    "OnlineDTLoss": lambda: objectives.OnlineDTLoss(actor()),
    "GAILLoss": lambda: objectives.GAILLoss(
        TensorDictModule(Joined(end=torch.sigmoid), ["observation", "action"], ["d_logits"])
    ),
    "RNDLoss": lambda: objectives.RNDLoss(nn.Linear(D, 4), nn.Linear(D, 4)),
    "WorldModelLoss": lambda: objectives.WorldModelLoss(world_model()),
}
DISCRETE = ("DQNLoss", "DiscreteCQLLoss", "DiscreteSACLoss", "DiscreteIQLLoss", "QMixerLoss")
TEAMS = ("MAPPOLoss", "IPPOLoss", "QMixerLoss")


def make(name):
    """A loss, and what a collector and a value estimator would have written for it.

    A batch has no entry that the loss has no use for, but all that it can read.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():  # TorchRL's, of its own annotations
        warnings.simplefilter("ignore")
        loss = LOSSES[name]()
    batch = team_batch(name) if name in TEAMS else single_batch(name)
    if name == "DiffusionBCLoss":
        loss.actor_network.eval()
    return loss, batch


def flags():
    terminated = torch.rand(B, 1) < 0.2
    done = terminated | (torch.rand(B, 1) < 0.2)
    return {"done": done, "terminated": terminated}


def single_batch(name):
    action = CHOICES.rand((B,)).long() if name in DISCRETE else 1.6 * torch.rand(B, A) - 0.8
    after = {"observation": torch.randn(B, D), "reward": torch.randn(B, 1), **flags()}
    batch = {"observation": torch.randn(B, D), "action": action, "next": after}
    if "PPO" in name or name in ("A2CLoss", "ReinforceLoss"):
        batch["action_log_prob"] = -torch.rand(B)
        batch |= {x: torch.randn(B, 1) for x in ("state_value", "advantage", "value_target")}
        batch |= {"loc": torch.randn(B, A), "scale": torch.rand(B, A) + 0.5}
    if name == "REDQLoss":
        batch["action_log_prob"] = -torch.rand(B)
    if name == "GAILLoss":
        batch["collector_observation"] = torch.randn(B, D)
        batch["collector_action"] = torch.randn(B, A)
    return TensorDict(batch, [B])


def team_batch(name):
    if name == "QMixerLoss":
        action = CHOICES.rand((B, N)).long()
        team = {"observation": torch.randn(B, N, D), "action": action}
    else:
        team = {"observation": torch.randn(B, N, D), "action": 1.6 * torch.rand(B, N, A) - 0.8}
        team["action_log_prob"] = -torch.rand(B, N)
        team |= {x: torch.randn(B, N, 1) for x in ("state_value", "advantage", "value_target")}
    after = {"observation": torch.randn(B, N, D)}
    batch = TensorDict({"next": flags()}, [B])
    if name == "QMixerLoss":
        batch["state"], batch["next", "state"] = torch.randn(2, B, D)
        batch["next", "reward"] = torch.randn(B, 1)
    else:
        after["reward"] = torch.randn(B, N, 1)
    batch["agents"] = TensorDict(team, [B, N])
    batch["next", "agents"] = TensorDict(after, [B, N])
    return batch
