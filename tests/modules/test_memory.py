"""AgentGRU, and the framework with it: acting and learning agree, episodes are kept apart."""

import copy

import pytest
import torch
from mpe2 import simple_tag_v3
from tensordict import TensorDict
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.modules import set_recurrent_mode

from tests.objectives.factory import double, gradients, poisoned, shaken, terms
from tests.transforms.teams import make_teams
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env
from torchrl_moawm.modules import AgentGRU

E, T, N, F, H = 3, 7, 2, 4, 5


class Plain(nn.Module):
    """Features as they are."""

    features = F

    def forward(self, x):
        return x


@pytest.fixture
def memory():
    torch.manual_seed(0)
    gru = AgentGRU(Plain(), [("agents", "x")], n_agents=N, hidden_dim=H, name="student")
    return gru.double()


@pytest.fixture
def sequences(normal, boolean):
    """Sequences that go on from a stored state, with resets and pauses within."""
    agents = {
        "x": normal(E, T, N, F),
        "student_state": normal(E, T, N, H),
        "mask": boolean(E, T, N, p=0.7),
    }
    starts = boolean(E, T, 1, p=0.3)
    return TensorDict({"agents": TensorDict(agents, [E, T, N]), "is_init": starts}, [E, T])


def learned(memory, batch):
    """What a loss sees: the memory over whole sequences."""
    with set_recurrent_mode(True):
        return memory(batch.copy())["agents", "student_memory"]


def by_hand(memory, batch):
    """Agent by agent and step by step."""
    out = torch.zeros(E, T, N, H, dtype=torch.float64)
    for e in range(E):
        for n in range(N):
            h = batch["agents", "student_state"][e, 0, n]
            for t in range(T):
                if batch["is_init"][e, t] and t > 0:  # before it the stored state serves
                    h = torch.zeros(H, dtype=torch.float64)
                if batch["agents", "mask"][e, t, n]:
                    h = memory.cell(batch["agents", "x"][e, t, n][None], h[None])[0]
                out[e, t, n] = h
    return out


# ------------------------------------------------------------------------ the module


def test_over_a_sequence_it_is_a_gru_cell_agent_by_agent(memory, sequences):
    torch.testing.assert_close(learned(memory, sequences), by_hand(memory, sequences))
    without = sequences.exclude(("agents", "mask"))
    sequences["agents", "mask"][:] = True
    torch.testing.assert_close(learned(memory, without), by_hand(memory, sequences))


def test_acting_it_makes_one_step_and_carries_the_state(memory, sequences):
    """Step after step from the carried state is the sequence."""
    expected, state = learned(memory, sequences), sequences["agents", "student_state"][:, 0]
    for t in range(T):
        step = sequences[:, t].copy()
        step["agents", "student_state"] = state
        out = memory(step)
        torch.testing.assert_close(out["agents", "student_memory"], expected[:, t])
        state = out["next", "agents", "student_state"]
        assert torch.equal(state, out["agents", "student_memory"])


def test_only_the_first_stored_state_is_read(memory, sequences):
    expected = learned(memory, sequences)
    sequences["agents", "student_state"][:, 1:] = torch.nan
    assert torch.equal(learned(memory, sequences), expected)
    sequences["is_init"][:, 0], sequences["agents", "mask"][:, 0] = False, True
    before = learned(memory, sequences)
    sequences["agents", "student_state"][:, 0] += 1.0
    assert (learned(memory, sequences)[:, 0] != before[:, 0]).any()


def test_agents_may_begin_by_themselves(memory, sequences, boolean):
    own = sequences.copy()
    own["is_init"] = sequences["is_init"].unsqueeze(-2).expand(E, T, N, 1)
    torch.testing.assert_close(learned(memory, own), learned(memory, sequences))
    own["is_init"] = own["is_init"].clone()
    own["is_init"][:, 3, 0] = True
    own["agents", "mask"][:, 3, 0] = True
    cell = memory.cell(own["agents", "x"][:, 3, 0])  # from zero
    torch.testing.assert_close(learned(memory, own)[:, 3, 0], cell)


@pytest.mark.parametrize("shape", [(E, T), (2, E, T)])
def test_any_batch_before_time(memory, sequences, shape):
    batch = sequences if len(shape) == 2 else torch.stack([sequences, sequences.flip(0)])
    expected = by_hand(memory, sequences)
    found = learned(memory, batch)
    torch.testing.assert_close(found if len(shape) == 2 else found[0], expected)
    torch.testing.assert_close(found if len(shape) == 2 else found[1].flip(0), expected)


def test_flat_batches_are_refused_in_a_loss(memory, sequences):
    for batch in (sequences.reshape(-1), sequences[0]):
        with pytest.raises(ValueError, match=r"trained on sequences \[\*B, T\], got the batch \["):
            learned(memory, batch)


def test_gradcheck_through_time(memory, sequences):
    batch = sequences[:1, :3]

    def function(x, state):
        data = batch.clone()
        data["agents", "x"], data["agents", "student_state"] = x, state
        return learned(memory, data)[:, -1]

    inputs = [batch["agents", name].clone().requires_grad_() for name in ("x", "student_state")]
    assert torch.autograd.gradcheck(function, inputs)


def test_the_last_step_teaches_the_first(memory, sequences):
    sequences["is_init"][:] = False
    sequences["agents", "mask"][:] = True
    x = sequences["agents", "x"].requires_grad_()
    learned(memory, sequences)[:, -1].sum().backward()
    assert (x.grad[:, 0] != 0).all()
    sequences["is_init"][:, 4] = True
    x.grad = None
    learned(memory, sequences)[:, -1].sum().backward()
    assert not x.grad[:, :4].any()
    assert (x.grad[:, 4] != 0).all()


def test_compiled_it_is_the_same(memory, sequences):
    compiled = torch.compile(learned, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(memory, sequences), learned(memory, sequences))


def test_copies(memory, sequences):
    other = copy.deepcopy(memory)
    nn.init.zeros_(other.cell.weight_hh)
    assert not torch.equal(learned(other, sequences), learned(memory, sequences))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(learned(other, sequences), learned(memory, sequences))


# --------------------------------------------------------------- acting and learning

LENGTHS = (3, 4, 5)


def make_system(env, **settings):
    system = MOAWM.from_env(env, recurrent=True, latent_dim=2, num_cells=(6,), **settings)
    for one in system.groups.values():
        for network in one.networks.values():
            shaken(network)
    return system


def teams():
    return make_teams(LENGTHS, {"red": 2, "blue": 3})


def play(env, system, steps=9):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, system.policy, break_when_any_done=False)


def memories(system):
    return [memory for one in system.groups.values() for memory in one.memories]


def assert_relearned(system, batch):
    """Over the stored sequence the networks remember what they did when acting."""
    for memory in memories(system):
        with torch.no_grad(), set_recurrent_mode(True):
            again = memory(batch.copy())[memory.out_keys[0]]
        torch.testing.assert_close(again, batch[memory.out_keys[0]])
        assert (again[:, 1:] != again[:, :-1]).any()


def test_learning_sees_what_acting_saw():
    """Environments that end at different times: every reset within the sequence is partial."""
    env = teams()
    system = make_system(env)
    check_env_specs(env)
    assert len(memories(system)) == 2 * 3  # of each group: the student, and two models of others
    batch = play(env, system)
    starts = batch["is_init"].squeeze(-1)
    assert [row.nonzero().flatten().tolist() for row in starts] == [[0, 3, 6], [0, 4, 8], [0, 5]]
    assert_relearned(system, batch)
    for memory in memories(system):
        state, after = batch[memory.state_key], batch[memory.out_keys[1]]
        assert not state[starts].any()
        goes_on = ~starts[:, 1:]
        assert torch.equal(state[:, 1:][goes_on], after[:, :-1][goes_on])


def test_a_loss_holds_the_state_of_who_rests():
    """A loss hands the agents' mask to the networks, who may not name it among their inputs."""
    env = make_teams(LENGTHS, {"red": 2, "blue": 3}, masked=True)
    system = make_system(env)
    batch = play(env, system)
    assert_relearned(system, batch)
    system.value_estimator(batch)
    seen = []
    for memory in memories(system):
        key = memory.out_keys[0]
        memory.register_forward_hook(lambda _, __, out, key=key: seen.append((key, out[key])))
    system.loss_module(batch)
    assert {key for key, _ in seen} == {memory.out_keys[0] for memory in memories(system)}
    goes_on = ~batch["is_init"][:, 1:]
    for key, memory in seen:
        held = (memory[:, 1:] == memory[:, :-1]).all(-1)
        acts = batch[key[0], "mask"][:, 1:]
        assert held[~acts & goes_on].all()
        assert not held[acts & goes_on].all()


def test_a_collector_carries_the_state_from_batch_to_batch():
    env = teams()
    system = make_system(env)
    collector = Collector(
        env,
        system.policy,
        frames_per_batch=6,
        total_frames=18,
        auto_register_policy_transforms=False,
    )
    batches = list(collector)
    whole = torch.cat(batches, -1)
    assert batches[1]["red", "student_state"][2, 0].any()  # the longest goes on into the second
    assert_relearned(system, whole)
    for batch in batches:  # each by itself as well: from the state it begins with
        assert_relearned(system, batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vmas_env("navigation", 3, max_steps=4, seed=0),
        lambda: make_pettingzoo_env(lambda: simple_tag_v3.parallel_env(max_cycles=4), 2, seed=0),
    ],
    ids=["vmas", "pettingzoo"],
)
def test_real_environments(make):
    env = make()
    system = make_system(env)
    check_env_specs(env)
    batch = play(env, system)
    assert_relearned(system, batch)
    system.value_estimator(batch)
    out = system.loss_module(batch)
    assert all(value.isfinite() for value in out.values())
    assert max(abs(value) for name, value in out.items() if name.startswith("kl_approx")) <= 1e-4


def test_the_advantage_steps_once_from_the_carried_state():
    """V(s_{t+1}, z_{t+1}): the student's mean at t+1, one step on from the state after t."""
    env = make_vmas_env("navigation", 3, max_steps=5, seed=0)
    system = make_system(env)
    batch = play(env, system, steps=4)
    system.value_estimator(batch)
    first = batch["agents", "advantage"].clone()
    system.value_estimator(batch)
    assert torch.equal(batch["agents", "advantage"], first)
    with torch.no_grad():  # within an episode the mean at t+1 is that of the next root
        after = system.student[:2](batch["next"].copy())["agents", "latent_loc"]
    torch.testing.assert_close(after[:, :-1], batch["agents", "latent_loc"][:, 1:])
    value = batch["agents", "state_value"]
    following = batch["next"].copy()
    following["agents", "latent"] = after
    with torch.no_grad():
        v_next = system.critic(following)["agents", "state_value"]
    delta = batch["next", "agents", "reward"] + 0.99 * v_next - value  # nobody has ended
    torch.testing.assert_close(first[:, -1], delta[:, -1])


def test_the_advantage_steps_from_each_state_by_itself_over_the_ends_of_episodes():
    """Without lambda a step needs no other: all together are one by one."""
    env = make_vmas_env("navigation", 3, max_steps=3, seed=0)
    system = make_system(env, lmbda=0.0)
    batch = play(env, system, steps=8)
    assert batch["next", "done"][:, :-1].any()
    alone = system.value_estimator(batch.reshape(-1).unsqueeze(-1).clone())
    found = system.value_estimator(batch)["agents", "advantage"]
    torch.testing.assert_close(found.flatten(0, 1), alone["agents", "advantage"].squeeze(1))


# ---------------------------------------------------------------------- episodes apart

RESET = 4


def elements(system, batch):
    """Loss per element of everything that reads the past, ``[E, T, ...]``."""
    out = {}
    for group, one in system.groups.items():
        parts = one.loss_module["moawm"]
        moa = parts["moa"]
        for loss in (moa["red"], moa["blue"], parts["cvae"]):
            loss.reduction = "none"
        out |= {f"{group}_moa_{to}": moa[to](batch)["loss_moa"] for to in ("red", "blue")}
        losses = parts["cvae"](batch)
        out |= {f"{group}_{k}": losses[k] for k in ("loss_kl", "loss_reconstruction")}
    return out


@pytest.fixture(params=[True, False], ids=["memory", "previous step"])
def two_episodes(request):
    """Every environment is reset at step 4; float64, fixed noise."""
    torch.manual_seed(0)
    env = make_teams((RESET, RESET), {"red": 2, "blue": 3})
    system = MOAWM.from_env(env, recurrent=request.param, latent_dim=2, num_cells=(6,))
    for one in system.groups.values():
        for network in one.networks.values():
            shaken(network).double()
    batch = play(env, make_float(system), 2 * RESET)
    for group in ("red", "blue"):
        batch[group, "observation"] = torch.randn_like(batch[group, "observation"])
        before = torch.randn_like(batch[group, "previous_observation"])
        first = ~batch[group, "previous_mask"].unsqueeze(-1)
        batch[group, "previous_observation"] = before.masked_fill(first, 0.0)
        batch[group, "latent_noise"] = torch.randn_like(batch[group, "latent"])
    return system, double(batch)


def make_float(system):
    """The same system acting in float32."""
    acting = copy.deepcopy(system)
    for one in acting.groups.values():
        for network in one.networks.values():
            network.float()
    return acting


def replaced(batch, steps):
    """Another history at some steps: everything a network reads, resets and masks as they are."""
    out = batch.clone()
    other = batch[:, steps].flip(0)[:, torch.randperm(len(range(*steps.indices(2 * RESET))))]
    for group in ("red", "blue"):
        for name in ("observation", "action", "previous_observation", "previous_action"):
            out[group, name][:, steps] = other[group, name] + 1.0
        for name in ("student_state", "moa_state"):
            if name in out[group]:
                out[group, name][:, steps] = 7.0
    return out


@pytest.mark.parametrize("side", ["before", "after"])
def test_what_is_on_the_other_side_of_a_reset_changes_nothing(two_episodes, side):
    system, batch = two_episodes
    before, after = slice(0, RESET), slice(RESET, None)
    kept, changed = (before, after) if side == "before" else (after, before)
    expected, found = elements(system, batch), elements(system, replaced(batch, changed))
    for name in expected:
        assert torch.equal(found[name][:, kept], expected[name][:, kept]), name
        assert not torch.equal(found[name][:, changed], expected[name][:, changed]), name


def test_gradients_do_not_cross_a_reset(two_episodes):
    system, batch = two_episodes
    other = replaced(batch, slice(RESET, None))

    def gradient(data):
        losses = elements(system, data)
        parameters = [p for p in system.loss_module.parameters() if p.requires_grad]
        total = sum(loss[:, :RESET].sum() for loss in losses.values())
        return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)

    for one, two in zip(gradient(batch), gradient(other), strict=True):
        assert torch.equal(one, two)


def test_the_past_of_an_episode_matters_and_its_future_does_not(two_episodes):
    system, batch = two_episodes
    recurrent = bool(memories(system))
    expected = elements(system, batch)
    later = elements(system, replaced(batch, slice(2, RESET)))
    earlier = elements(system, replaced(batch, slice(1, 2)))
    for name, loss in expected.items():
        assert torch.equal(later[name][:, :2], loss[:, :2]), name
        if "moa" in name or "kl" in name:
            changed = not torch.equal(earlier[name][:, 3], loss[:, 3])
            assert changed == recurrent, name


def test_the_dead_change_nothing(two_episodes):
    system, batch = two_episodes
    losses = system.loss_module["red"]["moawm"]
    for group in ("red", "blue"):
        batch[group, "mask"] = torch.ones_like(batch[group, "previous_mask"])
        batch[group, "mask"][0, 2:, 0] = False
        batch[group, "previous_mask"][0, 3:, 0] = False
    bad = poisoned(batch, "red", "blue")
    torch.testing.assert_close(terms(losses(bad)), terms(losses(batch)), rtol=0.0, atol=0.0)
    expected, found = gradients(losses, batch), gradients(losses, bad)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


# ------------------------------------------------------------------------ environments


def test_the_environment_is_changed_once():
    env = teams()
    make_system(env)
    n = len(env.transform)
    other = MOAWM.from_env(env, recurrent=True, latent_dim=2, num_cells=(6,))
    assert len(env.transform) == n
    assert other.add_memory(env) is env
    held_out = teams()
    other.add_memory(held_out)
    check_env_specs(held_out)
    play(held_out, other)
    plain = teams()
    before = plain.transform
    assert MOAWM.from_env(plain).add_memory(plain).transform is before


def test_an_environment_that_takes_no_transforms():
    with pytest.raises(TypeError, match=r"Expected a TransformedEnv .* got SerialEnv: wrap it"):
        MOAWM.from_env(SerialEnv(2, teams), recurrent=True)
