"""Learning in turns: a reward that arrives while the other acts teaches who earned it."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor

from torchrl_moawm import ClipPPOPolicyLoss, ClipPPOValueLoss, LossSum

MOVES, GAMES, UPDATES = 4, 256, 12


def play(actor, generator):
    """Games of four moves in turns. A risky move (1) loses on the spot in half of the cases, which
    the mover hears of while the other is at its turn; whoever lasts wins nothing."""
    mover = torch.arange(MOVES) % 2
    observation = torch.zeros(GAMES, MOVES + 1, 2, 3)
    observation[..., 0, 0] = observation[..., 1, 1] = 1.0
    observation[..., 2] = torch.arange(MOVES + 1).reshape(1, -1, 1) / MOVES
    mask = (torch.arange(2) == mover.unsqueeze(-1)).expand(GAMES, MOVES, 2).clone()
    data = TensorDict({"agents": {"observation": observation[:, :MOVES]}}, [GAMES, MOVES])
    with torch.no_grad():
        dist = actor.get_dist(data)
        action = (torch.rand(GAMES, MOVES, 2, generator=generator) > dist.probs[..., 0]).long()
        log_prob = dist.log_prob(action)
    risky = (action == 1) & mask
    # the loss of a risky move arrives at the next step, while the other acts
    lost = risky & (torch.rand(GAMES, MOVES, 1, generator=generator) < 0.5)
    reward = torch.zeros(GAMES, MOVES, 2)
    reward[:, 1:] = -lost[:, :-1].float()
    reward[:, -1] -= lost[:, -1].float()
    end = torch.zeros(GAMES, MOVES, 2, 1, dtype=torch.bool)
    end[:, -1] = True
    root = torch.zeros(GAMES, MOVES, 1, dtype=torch.bool)
    team = (GAMES, MOVES, 2)
    now = {"observation": observation[:, :MOVES], "action": action, "action_log_prob": log_prob}
    now |= {"mask": mask, "done": torch.zeros_like(end)}
    then = {"observation": observation[:, 1:], "reward": reward.unsqueeze(-1)}
    then |= {"done": end, "terminated": end.clone(), "mask": torch.zeros_like(mask)}
    batch = TensorDict({"agents": TensorDict(now, team)}, [GAMES, MOVES])
    batch["next"] = {
        "agents": TensorDict(then, team),
        "done": end[:, :, 0],
        "terminated": end[:, :, 0],
    }
    batch["done"] = root
    return batch


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_safe_move_wins(seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))
    actor = ProbabilisticActor(
        TensorDictModule(net, [("agents", "observation")], [("agents", "logits")]),
        in_keys={"logits": ("agents", "logits")},
        out_keys=[("agents", "action")],
        distribution_class=torch.distributions.Categorical,
    )
    with torch.no_grad():
        net[-1].bias[:] = torch.tensor([-1.0, 1.0])  # it begins with the risky one
    critic = TensorDictModule(
        nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1)),
        [("agents", "observation")],
        [("agents", "state_value")],
    )
    value = ClipPPOValueLoss(critic, clip_value=None).make_value_estimator(gamma=1.0, lmbda=0.95)
    total = LossSum({"policy": ClipPPOPolicyLoss(actor, entropy_coeff=0.0), "value": value})
    optimizer = torch.optim.Adam(total.parameters(), lr=3e-3)
    shares = []
    for _ in range(UPDATES):
        batch = play(actor, generator)
        shares.append((batch["agents", "action"][batch["agents", "mask"]] == 0).float().mean())
        value.value_estimator(batch)
        for _ in range(20):
            loss = sum(v for k, v in total(batch).items() if k.startswith("loss"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert shares[0] < 0.3
    assert shares[-1] >= 0.9
