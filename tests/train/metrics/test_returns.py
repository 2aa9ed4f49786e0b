"""Returns of finished episodes, of teams and of groups."""

import pytest
import torch
from tensordict import TensorDict

from torchrl_moawm.train.metrics.returns import first_return, intrinsic_rewards, team_return


def test_the_return_is_that_of_finished_episodes():
    """Hand numbers: environment 0 ends at steps 0 and 2, environment 1 at step 1."""
    summed = torch.tensor([[1.0, 90.0, 3.0], [90.0, 8.0, 90.0]])
    summed = torch.stack([summed, summed + 2.0], -1).unsqueeze(-1)  # [E, T, N, 1]
    done = torch.tensor([[True, False, True], [False, True, False]]).unsqueeze(-1)
    after = TensorDict({"done": done, "agents": {"episode_reward": summed}}, [2, 3])
    batch = TensorDict({"next": after}, [2, 3])
    assert team_return(batch)["return"] == pytest.approx((1.0 + 3.0 + 8.0) / 3 + 1.0)
    assert first_return(batch) == {"evaluation_return": pytest.approx((1.0 + 8.0) / 2 + 1.0)}


def test_an_episode_that_does_not_end_has_what_was_earned():
    summed = torch.tensor([[1.0, 2.0, 3.0], [1.0, 8.0, 90.0]])
    done = torch.tensor([[False, False, False], [False, True, False]]).unsqueeze(-1)
    after = TensorDict(
        {"done": done, "agents": {"episode_reward": summed[..., None, None]}}, [2, 3]
    )
    assert first_return(TensorDict({"next": after}, [2, 3])) == {"evaluation_return": 5.5}


def test_every_group_has_its_return():
    done = torch.tensor([[[False], [True]]])
    after = TensorDict({"done": done, "red": {}, "blue": {}}, [1, 2])
    after["red", "episode_reward"] = torch.tensor([9.0, 1.0]).view(1, 2, 1, 1)
    after["blue", "episode_reward"] = torch.tensor([[9.0, 9.0], [4.0, 7.0]]).view(1, 2, 2, 1)
    figures = team_return(TensorDict({"next": after}, [1, 2]))
    assert figures == {"return": 4.0, "return_red": 1.0, "return_blue": 5.5, "log_pbar": True}
    nobody = TensorDict({"next": after.clone().set("done", torch.zeros_like(done))}, [1, 2])
    assert team_return(nobody) == {}


def test_the_return_of_a_team_is_at_the_root():
    """The figure of a nested group has both of its names."""
    done = torch.tensor([[[False], [True]]])
    after = TensorDict({"done": done, "episode_reward": torch.tensor([[[9.0], [4.0]]])}, [1, 2])
    assert team_return(TensorDict({"next": after}, [1, 2])) == {"return": 4.0, "log_pbar": True}
    assert first_return(TensorDict({"next": after}, [1, 2])) == {"evaluation_return": 4.0}
    own = torch.tensor([[[[9.0]], [[2.0]]]])
    nested = after.exclude("episode_reward")
    nested["team", "red", "episode_reward"] = own
    nested["team", "blue", "episode_reward"] = own + 4.0
    figures = team_return(TensorDict({"next": nested}, [1, 2]))
    assert figures["return"] == 4.0
    assert (figures["return_team_red"], figures["return_team_blue"]) == (2.0, 6.0)
    with pytest.raises(KeyError, match="RewardSum"):
        team_return(TensorDict({"next": {"done": done}}, [1, 2]))


def test_rewards_of_ones_own_are_found_where_the_team_has_one_reward():
    given = {"agents": {"curiosity": torch.tensor([[[[1.0], [3.0]]]])}, "episode_reward": 0.0}
    after = TensorDict({**given, "done": torch.ones(1, 1, 1, dtype=torch.bool)})
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    batch = TensorDict({"next": after, "agents": {"previous_mask": mask}})
    assert intrinsic_rewards(batch) == {"curiosity_agents": 2.0}
    batch["agents", "mask"] = torch.tensor([[[False, True]]])  # who is gone gives itself nothing
    assert intrinsic_rewards(batch) == {"curiosity_agents": 3.0}
