"""What the values of settings can be."""

from omegaconf import DictConfig, OmegaConf

COUNTS = (
    "total_frames",
    "epochs",
    "minibatches",
    "evaluation_envs",
    "task.num_envs",
    "task.max_steps",
)
"""Settings that are numbers of at least 1."""
POSITIVE = ("lr", "max_grad_norm", "task.initial_scale")
"""Settings that are numbers above 0."""
SHARES = (
    "task.gamma",
    "task.lmbda",
    "algorithm.model_rows",
    "algorithm.latent_rows",
    "algorithm.teacher_share",
)
"""Settings that are numbers from 0 to 1."""
SWITCHES = (
    "compile",
    "progress_bar",
    "anneal_lr",
    "gif",
    "task.agent_index",
    "task.shared_value",
    "task.parallel",
    "algorithm.oracle",
    "algorithm.permute_agents",
    "algorithm.standardize",
    "algorithm.continuation",
    "algorithm.recurrent",
    "algorithm.encode_anew",
    "algorithm.policy_trains_student",
    "algorithm.act_on_predictions",
    "algorithm.joint_world_model",
    "algorithm.moa_bounded",
)
"""Settings that are true or false; other words, ``no`` too, would count as true."""


def check_values(config: DictConfig) -> None:
    """Refuses values that no setting of that name can have.

    Raises:
        ValueError: The message names the setting, what it can be, and what it is.
    """
    ranges = (
        (COUNTS, 1, float("inf"), "a whole number of at least 1"),
        (POSITIVE, 1e-300, float("inf"), "a number above 0"),
        (SHARES, 0, 1, "a number from 0 to 1"),
    )
    for names, low, high, what in ranges:
        for name in names:
            value = OmegaConf.select(config, name)
            if value is None and names is SHARES:  # of another algorithm
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = number and low <= value <= high and (names is not COUNTS or value % 1 == 0)
            if not fits:
                raise ValueError(f"Expected {name} to be {what}, got {value!r}.")
    for name in SWITCHES:
        value = OmegaConf.select(config, name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"Expected {name} to be true or false, got {value!r}.")
