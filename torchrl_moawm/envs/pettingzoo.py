"""PettingZoo."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import (
    Compose,
    DTypeCastTransform,
    EnvBase,
    ObservationTransform,
    ParallelEnv,
    PettingZooWrapper,
    RenameTransform,
    SerialEnv,
    TransformedEnv,
)

from torchrl_moawm._checks.tensors import check_one_shape, check_size
from torchrl_moawm.envs.transforms import with_transforms


class AgentImage(ObservationTransform):
    """Every agent's image as convolutions read it: ``[*B, N, H, W, C]`` -> ``[*B, N, C, H, W]``.

    Of uint8, 0 to 255, it becomes 0 to 1; smaller where asked, by averages. Beside TorchRL's
    ``ToTensorImage`` (which serves integers alone) and ``Resize`` (which needs torchvision).
    """

    def __init__(self, keys: Sequence[NestedKey], size: Sequence[int] | None = None) -> None:
        super().__init__(in_keys=list(keys), out_keys=list(keys))
        self.size = None if size is None else (size[0], size[1])

    def _apply_transform(self, observation: Tensor) -> Tensor:
        image = observation.movedim(-1, -3)
        image = image / 255.0 if image.dtype == torch.uint8 else image.to(torch.float32)
        if self.size is None:
            return image
        small = torch.nn.functional.adaptive_avg_pool2d(image.flatten(0, -4), self.size)
        return small.reshape(*image.shape[:-2], *self.size)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Channels first, of the new size, in float32."""
        for key in self.in_keys:
            spec = observation_spec[key]
            *team, height, width, channels = spec.shape
            size = self.size or (height, width)
            observation_spec[key] = Unbounded((*team, channels, *size), device=spec.device)
        return observation_spec


def make_pettingzoo_env(
    create_env: Callable[[], Any] | Any,
    num_envs: int = 1,
    *,
    max_steps: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    parallel: bool = False,
    image_size: Sequence[int] | None = None,
    **wrapper_kwargs: Any,
) -> TransformedEnv:
    """A PettingZoo environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    Agents may die: ``(group, "mask")`` is True where an agent acts, and the episode goes on while
    somebody lives. PettingZoo is an extra: ``pip install torchrl_moawm[pettingzoo]``.

    Args:
        create_env: Makes a PettingZoo environment (``simple_spread_v3.parallel_env``, or a turn
            based ``tictactoe_v3.env``), or is one.
        num_envs: How many environments; with more than one, ``create_env`` must be a callable.

    Keyword Args:
        max_steps: Steps of an episode, truncated; ``None`` leaves it to the environment.
        seed: Of the first environment; the others follow from it.
        device: Where the tensors are.
        parallel: Whether several environments run in processes of their own (TorchRL's
            ``ParallelEnv``) rather than one after another (``SerialEnv``). Worth it where a step
            takes milliseconds; close the environment when done.
        image_size: ``(H, W)`` to which images are reduced; ``None`` keeps them as they are.
        **wrapper_kwargs: Of ``PettingZooWrapper``, such as ``group_map`` and
            ``categorical_actions=False`` for one-hot actions.

    Returns:
        The environment. Observations are float32; those of three dimensions are taken for images
        ``(H, W, C)`` and become ``(C, H, W)``, 0 to 1 where they were uint8. Where the environment
        says which actions are allowed, that is ``(group, "action_mask")``.

    Raises:
        ImportError: PettingZoo is not installed.
        ValueError: Several environments are asked of one instance, ``num_envs`` or ``max_steps`` is
            below 1, or the agents of a group differ in shape.
    """
    check_size(num_envs=num_envs, max_steps=max_steps)
    instance = hasattr(create_env, "reset") and hasattr(create_env, "possible_agents")
    if instance and num_envs > 1:
        raise ValueError(f"Expected a callable for {num_envs} environments, got one instance.")

    def make() -> EnvBase:
        settings = {"use_mask": True, "done_on_any": False, "device": device, **wrapper_kwargs}
        env = PettingZooWrapper(env=create_env if instance else create_env(), **settings)
        return _plain_observations(env, image_size)

    several = ParallelEnv if parallel else SerialEnv
    env: EnvBase = make() if num_envs == 1 else several(num_envs, make)
    if seed is not None:
        env.set_seed(seed)
    return with_transforms(env, max_steps)


def _plain_observations(env: EnvBase, image_size: Sequence[int] | None) -> EnvBase:
    """Observations as ``(group, "observation")`` in float32, images with their channels first."""
    env = TransformedEnv(env, Compose())
    for group in env.group_map:  # one that comes with an action mask lies one deeper
        if (group, "observation", "observation") in env.full_observation_spec.keys(True, True):
            nested, seen = (group, "observation", "observation"), (group, "seen")
            env.append_transform(RenameTransform([nested], [seen]))
            env.append_transform(RenameTransform([seen], [(group, "observation")]))
    specs = env.full_observation_spec
    for name, spec in (("observation", specs), ("action", env.full_action_spec)):
        for group in env.group_map:
            check_one_shape(group, name, spec[group, name].shape)
    keys = [(group, "observation") for group in env.group_map]
    batch_dims = len(env.batch_size) + 1
    images = [key for key in keys if specs[key].ndim == batch_dims + 3]
    if images:
        env.append_transform(AgentImage(images, image_size))
    return _single_precision(env, [key for key in keys if key not in images])


def _single_precision(env: TransformedEnv, keys: Sequence[NestedKey]) -> EnvBase:
    """Observations in float32, and floating actions taken in it."""
    seen, acts = env.full_observation_spec, env.full_action_spec
    observed = {key: seen[key].dtype for key in keys}
    acted = {key: acts[key].dtype for key in env.action_keys if acts[key].dtype.is_floating_point}
    for dtype in {*observed.values(), *acted.values()} - {torch.float32}:
        cast = DTypeCastTransform(
            dtype,
            torch.float32,
            in_keys=[key for key, found in observed.items() if found == dtype],
            in_keys_inv=[key for key, found in acted.items() if found == dtype],
        )
        env.append_transform(cast)
    return env
