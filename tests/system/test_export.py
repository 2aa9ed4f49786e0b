"""The policy by torch.export: acts as the eager one does, and holds nothing of training."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.system.test_saving import WORLDS, make

OBSERVATIONS = 1_000


def random_like(entry, generator):
    """Such entries, of a thousand environments."""
    shape = (OBSERVATIONS, *entry.shape[1:])
    if entry.dtype.is_floating_point:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 2, shape, generator=generator).to(entry.dtype)


@pytest.mark.parametrize("world", WORLDS)
def test_it_acts_as_the_policy_does(world, generator, tmp_path):
    env, system, _ = make(world)
    torch.export.save(system.export_policy(env.reset()), tmp_path / "policy.pt2")
    policy = torch.export.load(tmp_path / "policy.pt2").module()
    example = env.reset()
    keys = {
        "_".join(key) if isinstance(key, tuple) else key: key for key in example.keys(True, True)
    }
    names = system.export_policy(example).example_inputs[0][0]
    entries = {name: random_like(example[keys[name]], generator) for name in names}
    out = policy(entries)
    batch = TensorDict({keys[name]: entry for name, entry in entries.items()}, [OBSERVATIONS])
    for key in system.policy.in_keys:  # those of the teacher and of the models' memories
        if key not in batch.keys(True) and key in example.keys(True):
            batch[key] = random_like(example[key], generator)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        system.policy(batch)
    for group in system.groups:
        difference = out[f"{group}_action"].double() - batch[group, "action"].double()
        assert difference.abs().max() <= 1e-6
        if f"{group}_student_state" in names:
            after = batch["next", group, "student_state"]
            torch.testing.assert_close(out[f"{group}_student_state"], after, atol=1e-6, rtol=0)


def test_a_memory_stays_where_an_agent_does_not_act(generator):
    env, system, _ = make("several groups with a memory")
    example = env.reset()
    everybody = torch.ones(3, 3, dtype=torch.bool)
    example["adversary", "mask"] = everybody
    exported = system.export_policy(example)
    entries = {n: random_like(x, generator) for n, x in exported.example_inputs[0][0].items()}
    entries["is_init"] = torch.zeros_like(entries["is_init"])
    acts = entries["adversary_mask"] = torch.rand(OBSERVATIONS, 3, generator=generator) < 0.5
    before, after = entries["adversary_student_state"], exported.module()(entries)
    after = after["adversary_student_state"]
    assert torch.equal(after[~acts], before[~acts])
    assert (after[acts] != before[acts]).any(-1).all()


def test_a_memory_begins_where_its_agent_does(generator):
    """Where ``is_init`` is each agent's own, and there is none for all."""
    env, system, _ = make("predictions, with a memory")
    example = env.reset()
    begins = example.pop("is_init").unsqueeze(-1)
    for name in system.groups:
        example[name, "is_init"] = begins.expand(*example[name].shape, 1).clone()
    exported = system.export_policy(example)
    entries = {n: random_like(x, generator) for n, x in exported.example_inputs[0][0].items()}
    assert {"agent_is_init", "adversary_is_init"} <= entries.keys()
    assert "is_init" not in entries
    after = exported.module()(entries)["adversary_student_state"]
    entries["adversary_student_state"] += 1.0
    moved = (exported.module()(entries)["adversary_student_state"] != after).any(-1)
    assert torch.equal(moved, ~entries["adversary_is_init"].squeeze(-1))


def test_nothing_privileged_is_in_it(generator):
    """The names of what it reads say so, and so does the number of its weights."""
    env, system, _ = make("privileged")
    exported = system.export_policy(env.reset())
    (entries,), _ = exported.example_inputs
    assert set(entries) == {
        f"adversary_{name}"
        for name in ("observation", "previous_observation", "previous_action", "previous_mask")
    }
    one = system["adversary"]
    acting = sum(p.numel() for p in [*one.actor.parameters(), *one.student[0].parameters()])
    assert sum(p.numel() for p in exported.parameters()) == acting


def test_an_example_has_what_the_policy_reads():
    env, system, _ = make("continuous")
    with pytest.raises(KeyError, match=r"reads .*previous_mask.*, which the example lacks"):
        system.export_policy(env.reset().exclude(("agents", "previous_mask")))
    with pytest.raises(ValueError, match=r"one batch dimension.*got \[\]"):
        system.export_policy(env.reset()[0])
