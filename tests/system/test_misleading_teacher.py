"""Where knowing makes the search for information needless, a teacher that always acts misleads."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm import MOAWM, GuidedPolicyLoss
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.transforms import Partner, PartnerPool

ENVS, BATCHES, EPOCHS = 128, 40, 4
LOOK = 2
LATE = 0.8
"""What the right door pays in the second of two steps; in the first one it is 1."""


class Doors(EnvBase):
    """Each of two agents opens one of two doors, in one of two steps; or looks which is right.

    The "TigerDoor" of Li et al., "Guided Policy Optimization under Partial Observability", 2025.
    The partner's type is the right door. Who knows it opens at once (1.0), who does not should look
    first (0.8): a guess is worth 0.5.
    """

    def __init__(self):
        super().__init__(batch_size=(ENVS,))
        team, one = (ENVS, 2), (ENVS, 1)
        self.group_map = {"agents": ["a", "b"], "partners": ["c"]}
        for kind, name, theirs, partners in (
            ("observation_spec", "observation", Unbounded((*team, 4)), Unbounded((*one, 1))),
            ("action_spec", "action", Categorical(3, shape=team), Bounded(-1, 1, (*one, 1))),
            ("reward_spec", "reward", Unbounded((*team, 1)), Unbounded((*one, 1))),
        ):
            groups = {
                "agents": Composite({name: theirs}, shape=team),
                "partners": Composite({name: partners}, shape=one),
            }
            setattr(self, kind, Composite(groups, shape=self.batch_size))

    def _set_seed(self, seed):
        pass

    def _observe(self):
        agents = TensorDict({"observation": self.seen.clone()}, [ENVS, 2])
        partners = TensorDict({"observation": torch.zeros(ENVS, 1, 1)}, [ENVS, 1])
        return TensorDict({"agents": agents, "partners": partners}, [ENVS])

    def _reset(self, _=None, **__):
        self.time, self.seen = 0, torch.zeros(ENVS, 2, 4)
        return self._observe()

    def _step(self, tensordict):
        action, kind = tensordict["agents", "action"], tensordict["partners", "type"]
        shut = self.seen[..., 3] == 0
        reward = shut * (action == kind) * (LATE if self.time else 1.0)
        looked = shut & (action == LOOK)
        cue = torch.nn.functional.one_hot(kind, 2).expand(ENVS, 2, 2) * looked[..., None]
        opened = (self.seen[..., 3] == 1) | (action != LOOK)
        self.time += 1
        self.seen = torch.cat([looked[..., None], cue, opened[..., None]], -1).float()
        after = self._observe()
        after["agents", "reward"] = reward[..., None]
        after["partners", "reward"] = torch.zeros(ENVS, 1, 1)
        after["done"] = torch.full((ENVS, 1), self.time == 2)
        after["terminated"] = after["done"].clone()
        return after


def doors():
    def waits(tensordict):
        return torch.zeros(*tensordict.batch_size, 1, 1)

    pool = PartnerPool([Partner(waits, 0), Partner(waits, 1)])
    return with_transforms(TransformedEnv(Doors(), pool), None)


def guidance(system, imitation, leash):
    """The two policies kept near each other, with these weights."""
    encoders = {
        "latent_network": system.student_encoder,
        "teacher_network": system.teacher_encoder,
    }
    return GuidedPolicyLoss(system.actor, imitation_coeff=imitation, leash_coeff=leash, **encoders)


def learned_return(teacher_frames, guided=(0.0, 0.0)):
    """Return of the deterministic student behind the training."""
    torch.manual_seed(0)
    env = doors()
    system = MOAWM.from_env(
        env,
        privileged=("partners",),
        act_on="mean",
        latent_dim=4,
        num_cells=(32,),
        model_cells=(8,),
        encoder_cells=(32,),
        teacher_kl_coeff=0.1,
        student_kl_coeff=0.1,
        teacher_privileged_only=True,
        policy_trains_student=True,
        teacher_frames=teacher_frames,
    )
    guide = guidance(system, *guided)
    optimizer = torch.optim.Adam(system.loss_module.parameters(), lr=5e-3)
    for _ in range(BATCHES):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = env.rollout(2, system.policy)
        system.value_estimator(batch)
        batch = batch.reshape(-1)
        for _ in range(EPOCHS):
            losses = system.loss_module(batch).update(guide(batch))
            sum(value for key, value in losses.items() if key.startswith("loss")).backward()
            optimizer.step()
            optimizer.zero_grad()
        system.step(batch.numel())
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        reward = env.rollout(2, system.policy)["next", "agents", "reward"]
    return float(reward.sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "guided", "looks"),
    [
        (1000.0, (0.0, 0.0), False),  # the teacher always acts: the student guesses
        (0.4, (0.0, 0.0), True),  # it leaves after 40% of the frames
        (1000.0, (1.0, 0.0), False),  # the student imitates it
        (1000.0, (1.0, 1.0), True),  # and it does nothing that the student could not learn
    ],
)
def test_a_teacher_that_always_acts_misleads_unless_it_is_held_back(share, guided, looks):
    found = learned_return(int(share * BATCHES * ENVS * 2), guided)
    assert found > 0.75 if looks else found < 0.7
