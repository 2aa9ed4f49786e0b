"""A system as one file: it acts alike elsewhere; what is not whole or does not fit is refused."""

import hashlib
import io
import subprocess
import sys
from collections import UserList
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import ActionScaling
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import PopArtValueNorm

from tests.modules.test_choices import make_env as make_choices
from tests.system.test_privileged import environment
from torchrl_moawm import MOAWM, MOALoss
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env
from torchrl_moawm.modules import AgentGroup, make_moa_network
from torchrl_moawm.system import SavedSystemError
from torchrl_moawm.system.layout import Layout

SMALL = {"latent_dim": 3, "num_cells": (8,), "model_cells": (8,), "encoder_cells": (8,)}
FIXTURE = Path(__file__).with_name("saved_by_0_2.moawm")


def knights():
    from pettingzoo.butterfly import knights_archers_zombies_v11 as game

    return make_pettingzoo_env(
        lambda: game.parallel_env(max_cycles=9), num_envs=2, max_steps=9, seed=0
    )


def vmas(scenario="navigation", **settings):
    return make_vmas_env(scenario, 3, max_steps=6, seed=0, **settings)


def scaled():
    """Actions between -2 and 2 of what the environment takes: others at the actor."""
    env = vmas()
    half = {"loc": torch.zeros(2), "scale": torch.full((2,), 0.5)}
    env.insert_transform(0, ActionScaling(**half, in_keys_inv=[("agents", "action")]))
    return env


WORLDS = {
    "continuous": (vmas, {}),
    "one-hot": (lambda: vmas(continuous_actions=False, categorical_actions=False), {}),
    "several groups with a memory": (lambda: vmas("simple_tag"), {"recurrent": True}),
    "images, masks": (knights, {}),
    "privileged": (
        environment,
        {"privileged": ("agent",), "act_on": "mean", "teacher_frames": 100},
    ),
    "several choices": (make_choices, {"act_on_predictions": True}),
    "predictions, with a memory": (
        lambda: vmas("simple_tag"),
        {"recurrent": True, "act_on_predictions": True},
    ),
    "other bounds": (scaled, {"value_norm": PopArtValueNorm(shape=1)}),
}


def make(world, **more):
    """An environment and a system that has seen something of it."""
    create, settings = WORLDS[world]
    env = create()
    system = MOAWM.from_env(env, **SMALL, **settings, **more)
    for parameter in system.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(6, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    system.step(30)
    return env, system, batch


def act_and_learn(system, batch):
    """Actions of both kinds, what is estimated from them, and every loss."""
    torch.manual_seed(3)
    with torch.no_grad():
        for mode in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
            with set_exploration_type(mode):
                system.policy(batch)
        return system.loss_module(system.value_estimator(batch))


def act_elsewhere(folder):
    """What the other process does with every file of a folder."""
    for file in Path(folder).glob("*.moawm"):
        given = {"value_norm": PopArtValueNorm(shape=1)} if "bounds" in file.name else {}
        system = MOAWM.load(file, **given)
        batch = torch.load(file.with_suffix(".batch"), weights_only=False)
        torch.save((batch, act_and_learn(system, batch)), file.with_suffix(".out"))


def test_another_process_acts_and_learns_bit_for_bit_alike(tmp_path):
    made = {world: make(world)[1:] for world in WORLDS}
    for world, (system, batch) in made.items():
        system.save(tmp_path / f"{world}.moawm")
        torch.save(batch, tmp_path / f"{world}.batch")
    code = f"from {__name__} import act_elsewhere; act_elsewhere({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    for world, (system, batch) in made.items():
        losses = act_and_learn(system, batch)
        there, its_losses = torch.load(tmp_path / f"{world}.out", weights_only=False)
        for key, entry in batch.items(True, True):
            if isinstance(entry, torch.Tensor):
                assert torch.equal(entry.nan_to_num(), there[key].nan_to_num()), (world, key)
        assert (losses == its_losses).all(), world


def test_all_that_was_counted_is_there(tmp_path):
    _, system, _ = make("privileged")
    system.save(tmp_path / "system")
    copy = MOAWM.load(tmp_path / "system")
    assert copy.state_dict().keys() == system.state_dict().keys()
    assert int(copy["adversary"].scheduled.frames) == 30
    assert torch.equal(
        copy["adversary"].statistics.change.scale(), system["adversary"].statistics.change.scale()
    )
    assert repr(copy) == repr(system)


def test_lists_of_any_kind_are_settings(tmp_path):
    """Hydra's come as a class of their own, which could not be read without unpickling it."""
    sizes = {**SMALL, "num_cells": UserList([8]), "model_cells": [8]}
    MOAWM.from_env(vmas(), **sizes).save(tmp_path / "system")
    _, settings = MOAWM.load(tmp_path / "system").made_from
    assert (settings["num_cells"], settings["model_cells"]) == ((8,), (8,))


def test_numbers_of_numpy_are_settings_and_what_could_not_be_read_is_refused(tmp_path):
    given = {"gamma": np.float64(0.9), "lmbda": np.float32(0.5), "num_cells": np.array([8])}
    MOAWM.from_env(vmas(), **{**SMALL, **given}).save(tmp_path / "system")
    _, settings = MOAWM.load(tmp_path / "system").made_from
    assert [settings[name] for name in given] == [0.9, 0.5, (8,)]
    system = MOAWM.from_env(vmas(), **SMALL)
    system.made_from[1]["gamma"] = object()
    with pytest.raises(TypeError, match="a number, a word or a list"):
        system.save(tmp_path / "other")


def test_double_precision_comes_back_double(tmp_path):
    layout = Layout.from_env(vmas())
    torch.set_default_dtype(torch.float64)
    try:
        system = MOAWM.from_layout(layout, **SMALL)
    finally:
        torch.set_default_dtype(torch.float32)
    system.save(tmp_path / "system")
    found = MOAWM.load(tmp_path / "system").state_dict()
    assert torch.get_default_dtype() == torch.float32
    for name, weight in system.state_dict().items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name


def test_nothing_of_the_file_is_unpickled(tmp_path, monkeypatch):
    _, system, _ = make("continuous")
    system.save(tmp_path / "system")
    asked, load = [], torch.load

    def look(*args, **settings):
        asked.append(settings["weights_only"])
        return load(*args, **settings)

    monkeypatch.setattr(torch, "load", look)
    MOAWM.load(tmp_path / "system")
    assert asked == [True]


def spoilt(data, how):
    """The bytes of a file, of which something is wrong."""
    magic, _, body = data.split(b"\n", 2)
    if how == "another form":
        return data.replace(magic, magic[:-1] + b"9", 1)
    if how == "cut short":
        return data[:-100]
    if how == "one bit":
        return data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]
    return {"text": b"a table\n", "nothing": b"", "other weights": body}[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("text", "was not written by MOAWM.save"),
        ("nothing", "was not written by MOAWM.save"),
        ("other weights", "was not written by MOAWM.save"),
        ("another form", "has form 9, and this version reads up to 2"),
        ("cut short", "is not as it was written: cut short, or altered"),
        ("one bit", "is not as it was written: cut short, or altered"),
    ],
)
def test_what_is_not_whole_is_refused_by_name(how, message, tmp_path):
    _, system, _ = make("continuous")
    file = tmp_path / "team.moawm"
    system.save(file)
    file.write_bytes(spoilt(file.read_bytes(), how))
    with pytest.raises(SavedSystemError, match=rf"team\.moawm {message}"):
        MOAWM.load(file)


def test_an_own_network_goes_into_a_system_that_has_it(tmp_path):
    env, _, _ = make("continuous")

    def own():
        system = MOAWM.from_env(env, **SMALL)
        group = AgentGroup.from_env(env)
        system.moa_network = make_moa_network(group, head="pairwise", num_cells=(5,))
        return system

    system = own()
    system.save(tmp_path / "system")
    with pytest.raises(SavedSystemError, match=r"does not fit this system: (.|\n)*moa_network"):
        MOAWM.load(tmp_path / "system")
    with pytest.raises(TypeError, match=r"\['value_norm'\] would do nothing"):
        MOAWM.load(tmp_path / "system", into=own(), value_norm=None)
    copy = MOAWM.load(tmp_path / "system", into=own())
    pairs = zip(system.parameters(), copy.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_system_of_own_parts_has_a_state_and_no_file(tmp_path):
    _, system, _ = make("continuous")
    by_hand = MOAWM(system.groups)
    with pytest.raises(ValueError, match=r"save its state_dict with torch\.save"):
        by_hand.save(tmp_path / "system")
    by_hand.load_state_dict(system.state_dict())


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    _, system, _ = make("continuous")
    file = tmp_path / "team.moawm"
    system.save(file)
    before = file.read_bytes()

    def full(path, _):
        path.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        system.save(file)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["team.moawm"]


def test_the_file_says_by_what_it_was_written(tmp_path):
    _, system, _ = make("continuous")
    system.save(tmp_path / "system")
    first, digest, body = (tmp_path / "system").read_bytes().split(b"\n", 2)
    assert first == b"torchrl_moawm.MOAWM 2"
    assert digest.decode() == hashlib.sha256(body).hexdigest()
    (tmp_path / "body").write_bytes(body)
    content = torch.load(tmp_path / "body", weights_only=True)
    assert content["versions"].keys() == {"torch", "torchrl", "tensordict", "torchrl_moawm"}


@pytest.mark.parametrize("world", ["several groups with a memory", "privileged", "images, masks"])
def test_the_layout_of_an_environment_survives(world):
    create, settings = WORLDS[world]
    layout = Layout.from_env(create(), privileged=settings.get("privileged", ()))
    assert Layout.from_plain(layout.plain()) == layout


def test_of_other_groups_than_that_which_is_served_nothing_is_read(monkeypatch):
    """They may be of a kind that cannot be served."""
    env, asked, read = vmas("simple_tag"), [], AgentGroup.from_env

    def look(env, group, privileged=False):
        asked.append(group)
        return read(env, group, privileged)

    monkeypatch.setattr(AgentGroup, "from_env", look)
    layout = Layout.from_env(env, "agent")
    assert asked == [one.group.group for one in layout.groups] == ["agent"]


def test_a_file_of_the_first_version_is_read():
    """Written by 0.2, and to be read by every later version. Its actions were noted then."""
    system = MOAWM.load(FIXTURE)
    noted = torch.load(FIXTURE.with_suffix(".pt"), weights_only=True)
    entries = {tuple(key.split(".")): entry for key, entry in noted["given"].items()}
    out = system.policy(TensorDict(entries, [2]))
    torch.testing.assert_close(out["agents", "action"], noted["action"])


def test_models_of_a_file_of_before_mean_what_they_meant(tmp_path):
    """A file of form 1 says nothing of bounds, and its models of others are Gaussians."""
    _, system, batch = make("continuous", moa_bounded=False)
    system.save(tmp_path / "now")
    magic, _, body = (tmp_path / "now").read_bytes().split(b"\n", 2)
    content = torch.load(io.BytesIO(body), weights_only=True)
    del content["settings"]["moa_bounded"]
    torch.save(content, written := io.BytesIO())
    digest = hashlib.sha256(written.getvalue()).hexdigest().encode()
    lines = magic.replace(b"2", b"1"), digest, written.getvalue()
    (tmp_path / "then").write_bytes(b"\n".join(lines))
    network = MOAWM.load(tmp_path / "then").moa_network
    assert network.out_keys == [("agents", "moa_loc"), ("agents", "moa_scale")]
    wanted = system.loss_module["moawm"]["moa"](batch)["loss_moa"]
    torch.testing.assert_close(MOALoss(network)(batch)["loss_moa"], wanted)


def test_models_of_before_are_not_put_into_those_between_bounds(tmp_path):
    """With a memory their weights have the same names, and would mean something else."""
    system = MOAWM.from_env(vmas(), **SMALL, recurrent=True, moa_bounded=False)
    system.save(tmp_path / "team.moawm")
    other = MOAWM.from_env(vmas(), **SMALL, recurrent=True)
    with pytest.raises(SavedSystemError, match=r"moa_bounded=False, .* has moa_bounded=True"):
        MOAWM.load(tmp_path / "team.moawm", into=other)


def test_values_of_one_kind_are_not_put_into_critics_of_another(tmp_path):
    """Both have the same shapes, and read what they read in another order."""
    MOAWM.from_env(vmas(), **SMALL, shared_value=True).save(tmp_path / "team.moawm")
    with pytest.raises(SavedSystemError, match=r"shared_value=True, .* has shared_value=False"):
        MOAWM.load(tmp_path / "team.moawm", into=MOAWM.from_env(vmas(), **SMALL))


@pytest.mark.parametrize("there", [vmas, scaled])
def test_an_actor_is_not_put_between_other_bounds(there, tmp_path):
    MOAWM.from_env(there(), **SMALL).save(tmp_path / "team.moawm")
    other = MOAWM.from_env((scaled if there is vmas else vmas)(), **SMALL)
    with pytest.raises(SavedSystemError, match="actions of 'agents' with low="):
        MOAWM.load(tmp_path / "team.moawm", into=other)


def test_everything_moves_to_a_device():
    """Weights, counts, losses, and the bounds of the actions."""
    _, system, _ = make("other bounds")
    _ = system.loss_module
    both = [net[-1].distribution_kwargs for net in (system.actor, system.moa_network)]
    assert {bounds["high"].device.type for bounds in both} == {"cpu"}
    system.to("meta")
    tensors = [*system.parameters(), *system.state_dict().values()]
    tensors += [bound for bounds in both for bound in bounds.values()]
    tensors += [*system.loss_module.parameters(), *system.loss_module.buffers()]
    assert {x.device.type for x in tensors} == {"meta"}


def test_what_it_is_can_be_read():
    _, system, _ = make("several groups with a memory")
    lines = repr(system).splitlines()
    assert lines[:2] == ["MOAWM", "  adversary"]
    actor = sum(p.numel() for p in system["adversary"].actor.parameters())
    assert lines[2].split() == [
        "actor",
        f"{actor}",
        "parameters",
        "reads",
        "observation,",
        "latent",
    ]
    assert lines[9].strip().startswith("minimises loss_objective, loss_entropy, loss_value")


def test_who_is_printed_may_still_get_other_parts():
    env, _, _ = make("continuous")
    system = MOAWM.from_env(env, **SMALL)
    assert "minimises" in repr(system)
    system.world_model = system.world_model
