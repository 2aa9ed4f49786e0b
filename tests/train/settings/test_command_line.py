"""What a command line may say, and that nothing on it or on disk is code to run."""

import subprocess

import pytest
from omegaconf import OmegaConf

from tests.benchmarks.runs import SETTINGS, command, configuration
from torchrl_moawm.train.algorithms.moawm import teacher_frames
from torchrl_moawm.train.checkpoints.files import CheckpointError
from torchrl_moawm.train.command import job
from torchrl_moawm.train.experiment import check_config
from torchrl_moawm.train.settings.command_line import ADJUSTABLE, check_arguments, resumed
from torchrl_moawm.train.settings.known import flat
from torchrl_moawm.train.settings.places import CONF
from torchrl_moawm.train.settings.ranges import SWITCHES, check_values
from torchrl_moawm.train.tasks.environment import check_task, make_env

# ------------------------------------------------------------------------------ no code


@pytest.mark.parametrize(
    "argument",
    [
        "+task.scenario_kwargs._target_=os.system",
        "+hydra.callbacks.x._target_=os.system",
        "+anything={_target_:os.system,command:ls}",
        "++lr={a:{_target_:builtins.exec}}",
    ],
)
def test_no_target_is_admitted(argument):
    with pytest.raises(ValueError, match="names no code to call"):
        check_arguments(["lr=1e-3", argument])


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.job_logging.handlers.x.()=os.system",
        "hydra.job.env_set.LD_PRELOAD=x.so",
        "hydra.searchpath=[file:///tmp]",
        "hydra/launcher=other",
        "+hydra.callbacks={}",
        "hydra={}",
    ],
)
def test_nothing_of_hydra_that_could_call_or_read_something(argument):
    with pytest.raises(ValueError, match=r"of Hydra may be set hydra\.run\."):
        check_arguments([argument])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("task=/tmp/evil", "Unknown task '/tmp/evil'"),
        ("+algorithm@task=../evil", "Unknown algorithm '../evil'"),
        ("+../../tmp/evil=x", "a file below conf/"),
    ],
)
def test_no_configuration_from_elsewhere(argument, message):
    with pytest.raises(ValueError, match=message):
        check_arguments([argument])


@pytest.mark.parametrize("flag", ["--config-dir=/tmp", "-cd", "--config-path", "--experimental"])
def test_no_other_folder_of_configurations(flag):
    with pytest.raises(ValueError, match=f"Unknown flag '{flag}'; there are -m, --multirun"):
        check_arguments([flag, "/tmp"])


def test_what_people_say_is_admitted():
    check_arguments(
        [
            *SETTINGS,
            "-m",
            "--cfg",
            "job",
            "task=vmas/navigation,vmas/balance",
            "algorithm=moawm",
            "~task.observation_blocks",
            "task.observation_blocks={}",
            "task.observation_blocks=null",
            "++task.observation_blocks.mine=[0,2]",
            "+task.scenario_kwargs.x=1",
            "+task.scenario_kwargs={x: 1, y: {z: 2}}",
            "~task.scenario_kwargs.n_agents",
            "task.evaluation_envs=3",
            "++lr=1e-3",
            "++checkpoint={every: 2}",
            "++algorithm.latent_dim=2",
            "+hydra.job.chdir=true",
            "resume=../outputs/run",
            "hydra.run.dir=../outputs/run",
            "hydra.sweep.subdir=x",
        ]
    )


def test_the_command_refuses_before_hydra_reads_it(tmp_path, monkeypatch):
    """Hydra alone makes the folder, and then stumbles over what is no callback."""
    attack = f"+hydra.callbacks.x={{_target_:os.mkdir,path:{tmp_path / 'hacked'}}}"
    found = subprocess.run(command(attack, "--cfg", "job"), capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (
        1,
        f"Refused {attack!r}: a configuration names no code to call.\n",
    )
    assert not (tmp_path / "hacked").exists()
    monkeypatch.setattr("sys.argv", ["train.py", attack, f"hydra.run.dir={tmp_path}"])
    with pytest.raises(SystemExit):
        job()
    assert (tmp_path / "hacked").exists()


def test_an_environment_comes_from_a_package_of_environments(monkeypatch):
    """``task.scenario`` is imported, so it is not any module."""
    config = configuration("task=pettingzoo/simple_tag", "task.scenario=antigravity")
    monkeypatch.setattr("importlib.import_module", lambda name: 1 / 0)
    with pytest.raises(ValueError, match="a module of pettingzoo or mpe2, got 'antigravity'"):
        make_env(config, 1, 0)
    for name in ("os", "mpe2x.evil", "pettingzoo", "../mpe2.x", "builtins"):
        config.task.scenario = name
        with pytest.raises(ValueError, match="a module of pettingzoo or mpe2"):
            check_task(config.task)
    config.task.scenario = "mpe2.simple_tag_v3"
    check_task(config.task)


# ----------------------------------------------------------------------- what there is not


def test_a_scenario_that_does_not_exist():
    for name in ("navigatoin", "/tmp/evil.py", "../evil"):
        config = configuration(f"task.scenario={name}")
        with pytest.raises(ValueError, match=rf"no scenario '{name}'; there are \['balance'.*navi"):
            make_env(config, 1, 0)


def test_a_suite_that_does_not_exist():
    with pytest.raises(ValueError, match="Unknown suite 'smac'; there are vmas, pettingzoo"):
        make_env(configuration("task.suite=smac"), 1, 0)


@pytest.mark.parametrize(
    ("said", "there"),
    [("task=vmas/navigatoin", "vmas/navigation"), ("algorithm=qmix", "moawm_no_teacher")],
)
def test_a_task_or_algorithm_that_does_not_exist(said, there):
    with pytest.raises(ValueError, match=f"(?s){said.split('=')[1]}.*there are.*{there}"):
        check_arguments([said])


# ---------------------------------------------------------------------- what nothing reads


@pytest.mark.parametrize(
    ("argument", "name", "there"),
    [
        ("+logger=wandb", "logger", "seed, total_frames, device"),
        ("++logger=wandb", "logger", "seed, total_frames"),
        ("+logger=wandb,csv", "logger", "seed"),
        ("+logger={kind: wandb}", "logger.kind", "seed"),
        ("+logger@task=wandb", "logger@task", "seed"),
        ("+experiment=mine", "experiment", "seed"),
        ("+wandb.project=x", "wandb.project", "seed"),
        ("+evaluation_env=3", "evaluation_env", "seed"),
        ("+task.parallel=true", "task.parallel", "task.agent_index, task.reward"),  # PettingZoo's
        ("+task/n_agents=3", "task.n_agents", "task.agent_index"),
        ("+checkpoint.evry=1", "checkpoint.evry", "checkpoint.every, checkpoint.keep"),
        ("++checkpoint={every: 1, evry: 1}", "checkpoint.evry", "checkpoint.every"),
        ("+ray.dashboard=true", "ray.dashboard", "ray.address"),
        ("+algorithm.gae=1", "algorithm.gae", "algorithm.name, algorithm.kind"),
        ("+algorithm@other=mappo", "algorithm@other", "seed"),
    ],
)
def test_what_nothing_reads_is_refused(argument, name, there):
    with pytest.raises(ValueError, match="nothing reads") as raised:
        check_arguments(["lr=1e-3", argument])
    assert str(raised.value).startswith(f"Refused {argument!r}: nothing reads {name!r}; there are ")
    assert f"there are {there}" in str(raised.value)
    assert str(raised.value).count(". ") == 0  # one sentence


def test_what_there_is_depends_on_task_and_algorithm():
    check_arguments(["task=pettingzoo/pursuit", "++task.parallel=true"])
    check_arguments(["-m", "algorithm=mappo,nam_recurrent", "++algorithm.recurrent=true"])
    check_arguments(["task.suite=pettingzoo", "+task.parallel=false"])
    check_arguments(["algorithm.kind=ppo", "++algorithm.oracle=true"])
    check_arguments(
        ["algorithm=moawm_recurrent_own", "++algorithm.auxiliary_losses=[cvae]"]
    )  # inherited
    with pytest.raises(ValueError, match=r"'algorithm\.recurrent'; there are algorithm\.name"):
        check_arguments(["algorithm=mappo", "++algorithm.recurrent=true"])


@pytest.mark.parametrize(
    "argument", ["~lr", "~algorithm", "~task.agent_index", "~checkpoint.keep=2"]
)
def test_what_is_read_is_not_taken_away(argument):
    with pytest.raises(
        ValueError, match=r"is read; without may go task\.scenario_kwargs, task\.obs"
    ):
        check_arguments([argument])


def test_the_command_line_says_it_in_one_line(tmp_path):
    found = subprocess.run(
        command("+logger=wandb", f"hydra.run.dir={tmp_path / 'run'}"),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert found.stderr.startswith(
        "Refused '+logger=wandb': nothing reads 'logger'; there are seed"
    )
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------- resumed


def test_a_resumed_run_may_change_what_has_no_part_in_a_step():
    saved = OmegaConf.to_container(configuration("task=vmas/balance", "lr=0.5"), resolve=True)
    said = ["resume=x", "total_frames=7", "checkpoint.keep=9", "task=vmas/balance", "lr=0.5"]
    found = resumed(configuration(*said[1:]), saved, said)
    assert found.total_frames == 7
    assert found.checkpoint.keep == 9
    assert found.resume is None
    kept = OmegaConf.to_container(found, resolve=True)
    assert {**kept, "total_frames": 0, "checkpoint": 0} == {
        **saved,
        "total_frames": 0,
        "checkpoint": 0,
    }


def test_what_is_not_said_is_the_checkpoints():
    saved = OmegaConf.to_container(configuration("task=vmas/balance", "lr=0.5"), resolve=True)
    assert OmegaConf.to_container(resumed(configuration(), saved, ["resume=x"])) == saved


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("lr=0.1", "lr is 0.1 here and 0.002 in the checkpoint"),
        ("seed=4", "seed is 4 here and 0 in the checkpoint"),
        ("threads=2", "threads is 2 here and 1 in the checkpoint"),
        ("algorithm=moawm_zero_latent", "ablation is 'zero_latent' here and None in the"),
        ("+task.scenario_kwargs.x=1", "task.scenario_kwargs.x is 1 here and None in the"),
    ],
)
def test_what_contradicts_the_checkpoint_is_named(said, message):
    saved = OmegaConf.to_container(configuration(), resolve=True)
    with pytest.raises(CheckpointError, match=message) as raised:
        resumed(configuration(said), saved, [said], "outputs/run")
    assert str(raised.value).startswith("outputs/run was written by another configuration: ")
    assert str(raised.value).endswith(f"A resumed run may change {', '.join(ADJUSTABLE)}.")


def test_more_frames_do_not_bring_the_teacher_back():
    """It was gone after 400 frames of 1,000, and is so of 4,000 and of 8,000."""
    saved = flat(OmegaConf.to_container(configuration("total_frames=1000"), resolve=True))
    saved["algorithm.teacher_share"] = 0.4
    said = "algorithm.teacher_share=0.4"
    for frames, expected in ((1000, 400), (500, 200), (4000, 400), (4000, 400), (8000, 400)):
        asked = [f"total_frames={frames}", said]
        found = resumed(configuration(*asked), unflat(saved), asked)
        assert found.total_frames == frames
        assert found.algorithm.teacher_share == 0.4
        assert teacher_frames(found) == expected
        if frames > 1000:
            saved = flat(OmegaConf.to_container(found))


def unflat(settings):
    config = OmegaConf.create()
    for name, value in settings.items():
        OmegaConf.update(config, name, value, force_add=True)
    return OmegaConf.to_container(config)


def test_every_setting_that_is_true_or_false_is_one_of_the_switches():
    files = [*CONF.glob("task/**/*.yaml"), *CONF.glob("*.yaml"), *CONF.glob("algorithm/*.yaml")]
    found = set()
    for file in files:
        group = "algorithm." if "algorithm" in file.parts else "task."
        group = "" if file.stem == "config" else group
        settings = flat(OmegaConf.to_container(OmegaConf.load(file)))
        found |= {group + name for name, x in settings.items() if isinstance(x, bool)}
    kwargs = {name for name in found if "scenario_kwargs" in name or "hydra" in name}
    assert found - kwargs == set(SWITCHES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("total_frames=0", "total_frames to be a whole number of at least 1"),
        ("minibatches=0", "minibatches to be a whole number of at least 1"),
        ("evaluation_envs=0", "evaluation_envs to be a whole number of at least 1"),
        ("task.max_steps=null", "task.max_steps to be a whole number of at least 1, got None"),
        ("epochs=2.5", "epochs to be a whole number of at least 1, got 2.5"),
        ("total_frames=abc", "total_frames to be a whole number of at least 1, got 'abc'"),
        ("lr=-0.001", "lr to be a number above 0, got -0.001"),
        ("lr=null", "lr to be a number above 0, got None"),
        ("max_grad_norm=-1", "max_grad_norm to be a number above 0, or inf, got -1"),
        ("task.gamma=2", "task.gamma to be a number from 0 to 1, got 2"),
        ("task.lmbda=-0.1", "task.lmbda to be a number from 0 to 1, got -0.1"),
        ("algorithm.recurrent=no", "algorithm.recurrent to be true or false, got 'no'"),
        ("gif=maybe", "gif to be true or false, got 'maybe'"),
        ("seed=-1", "seed to be a whole number from 0 to 4000000000, got -1"),
        ("seed=abc", "seed to be a whole number from 0 to 4000000000, got 'abc'"),
        ("threads=0", "threads to be a whole number of at least 1, got 0"),
        ("num_collectors=0", "num_collectors to be a whole number of at least 1, got 0"),
        ("collector=many", "collector to be one of single, multi_sync, multi_async, ray, got"),
        ("num_cells=128", "num_cells to be a list of whole numbers of at least 1, got 128"),
        ("num_cells=[0]", "num_cells to be a list of whole numbers of at least 1"),
        ("lr=inf", "lr to be a number above 0, got inf"),
        ("task.clip_epsilon=0", "task.clip_epsilon to be a number above 0, got 0"),
        ("task.reward_scale=-1", "task.reward_scale to be a number above 0, got -1"),
        ("task.critic_coeff=-1", "task.critic_coeff to be a number of at least 0, got -1"),
        ("task.critic_coeff=nan", "task.critic_coeff to be a number of at least 0, got nan"),
        ("algorithm.moa_lr=-0.006", "algorithm.moa_lr to be a number of at least 0, got -0.006"),
        (
            "algorithm.model_max_grad_norm=-1",
            "model_max_grad_norm to be a number above 0, or inf, got",
        ),
        ("algorithm.latent_epochs=1.5", "latent_epochs to be a whole number of at least 0, got 1"),
        ("task.model_steps=-3", "task.model_steps to be a whole number of at least 0, got -3"),
        ("algorithm.model_frames=-5", "model_frames to be a whole number of at least 0, got -5"),
        ("algorithm.model_minibatch=0", "model_minibatch to be a whole number of at least 1, got"),
        ("checkpoint.every=x", "checkpoint.every to be a whole number of at least 0, got 'x'"),
        ("algorithm.ablation=foo", "ablation to be one of zero_latent, frozen_encoder, got 'foo'"),
        ("algorithm.world_horizon=2", "world_horizon above 1 needs algorithm.recurrent=true"),
        ("minibatches=61", "minibatches to be at most the 60 rows"),
        (
            "algorithm.model_frames=null",
            "model_frames to be a whole number of at least 0, got None",
        ),
        ("algorithm.moa_lr=null", "moa_lr to be a number of at least 0, got None"),
        ("anneal_lr=null", "anneal_lr to be true or false, got None"),
        ("max_nonfinite_steps=0", "max_nonfinite_steps to be a whole number of at least 1, got 0"),
        ("algorithm.model_rows=0", "model_rows to be a number above 0, at most 1, got 0"),
        ("algorithm.sequence_length=0", "sequence_length to divide the 60 steps"),
        ("algorithm.sequence_length=25", "sequence_length to divide the 60 steps"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_a_run(setting, message):
    recurrent = ["algorithm.recurrent=true"] if "sequence" in setting else []
    with pytest.raises(ValueError, match=message):
        check_config(configuration(*recurrent, setting))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("minibatches=0", "imagination.minibatches to be a whole number of at least 1, got 0"),
        ("horizon=0", "imagination.horizon to be a whole number of at least 1, got 0"),
        ("model_steps=-1", "imagination.model_steps to be a whole number of at least 0, got -1"),
    ],
)
def test_numbers_of_imagination_that_cannot_be(setting, message):
    said = ("algorithm=moawm_imagined", f"algorithm.imagination.{setting}")
    with pytest.raises(ValueError, match=message):
        check_config(configuration(*said))


def test_imagination_and_predictions_over_several_steps():
    said = ("algorithm=moawm_imagined", "algorithm.recurrent=true", "algorithm.world_horizon=3")
    with pytest.raises(ValueError, match="imagination exclude each other"):
        check_config(configuration(*said))


def test_a_norm_without_bound_and_settings_of_an_algorithm_of_ones_own():
    check_config(configuration("max_grad_norm=inf", "algorithm.model_max_grad_norm=inf"))
    config = configuration("algorithm.moa_lr=auto", "algorithm.world_horizon=5")
    with pytest.raises(ValueError, match="moa_lr to be a number"):
        check_values(config)
    config.algorithm.kind = "ours:make"
    check_values(config)
    with pytest.raises(ValueError, match="seed to be a whole number from 0 to 4000000000"):
        check_values(configuration("seed=4294967296"))
    with pytest.raises(
        ValueError, match="sequence_length to be a whole number of at least 0, got N"
    ):
        check_config(configuration("algorithm.recurrent=true", "algorithm.sequence_length=null"))


def test_a_whole_number_may_be_said_with_a_point():
    config = configuration("total_frames=1e3", "epochs=2.0", "threads=null")
    check_config(config)
    assert (type(config.total_frames), config.total_frames) == (int, 1000)
    assert (type(config.epochs), config.epochs) == (int, 2)
