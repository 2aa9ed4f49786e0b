"""The contract of a LossModule: the table of its rules, and the call that checks them."""

import warnings
from collections.abc import Callable, Collection, Mapping

from tensordict import TensorDictBase
from torchrl.objectives import LossModule

from torchrl_moawm.testing import contract_copies, contract_keys, contract_values
from torchrl_moawm.testing.contract_probes import reduced
from torchrl_moawm.testing.contract_runs import run

RULES: dict[str, Callable[[LossModule, TensorDictBase], None]] = {
    "repeatable": contract_values.repeatable,
    "input_unchanged": contract_keys.input_unchanged,
    "out_keys": contract_keys.out_keys,
    "in_keys": contract_keys.in_keys_exact,
    "missing_keys": contract_keys.missing_keys,
    "renamed_keys": contract_keys.renamed_keys,
    "default_keys": contract_keys.default_keys,
    "terms_and_logs": contract_values.terms_and_logs,
    "gradients": contract_values.gradients,
    "padding": contract_values.padding,
    "masks_exclude": contract_values.masks_exclude,
    "mean_is_sum_over_count": contract_values.mean_is_sum_over_count,
    "batch_shapes": contract_values.batch_shapes,
    "keyword_call": contract_keys.keyword_call,
    "deepcopy": contract_copies.deep_copied,
    "state_dict": contract_copies.state_dict,
    "pickle": contract_copies.pickled,
}


def with_alive(batch: TensorDictBase) -> TensorDictBase:
    """The batch, in which each group that says who is done says who is there instead."""
    batch = batch.copy()
    for key in [key for key in batch.keys(True, True) if key[-1] == "done" and key[0] != "next"]:
        if batch.get((*key[:-1], "alive"), None) is None:
            batch.set((*key[:-1], "alive"), ~batch.get(key).squeeze(-1))
    return batch


def check_loss_module(
    loss: LossModule, batch: TensorDictBase, *, skip: Collection[str] = (), report: bool = False
) -> dict[str, str]:
    """Checks the contract of a loss, as ``check_env_specs`` does that of an environment.

    Every rule is checked, and every broken one told. The loss is checked with the keys it has, with
    the mean as its reduction and in the mode it is in; afterwards it is as it was. Warnings are not
    judged.

    Args:
        loss: Any :class:`~torchrl.objectives.LossModule`, sums of several included.
        batch: What it reads, with at least one batch dimension, 4 samples or more, and the agents'
            group (where there is one) as a nested tensordict of batch size ``[*B, N]``. A loss that
            draws is checked more closely with its noise in there (``latent_noise``).

    Keyword Args:
        skip: Rules to leave out, by name.
        report: Whether broken rules are returned rather than raised.

    Returns:
        By broken rule, what was found and what was expected; empty where the contract holds.

    The rules:

    - ``repeatable``: the same input and seed give the same result.
    - ``input_unchanged``: the input is left as it was, but for the key ``priority`` of TorchRL.
    - ``out_keys``, ``in_keys``: just that is returned, and read; they follow ``set_keys``.
    - ``missing_keys``: a KeyError names the entry that is missing, if the result depends on it.
    - ``renamed_keys``, ``default_keys``: every key can be renamed, and ``None`` is the default.
    - ``terms_and_logs``, ``gradients``: terms carry a finite gradient that is not 0, logs none.
    - ``padding``, ``masks_exclude``: what is masked changes nothing, a NaN included.
    - ``mean_is_sum_over_count``: the mean divides by the number of valid elements.
    - ``batch_shapes``: ``[B]``, ``[B, T]`` and ``[W, E, T]`` give the same result.
    - ``keyword_call``: entries as keyword arguments, outputs as a tuple.
    - ``deepcopy``, ``state_dict``, ``pickle``: copies give the same result.

    Raises:
        AssertionError: Rules are broken; a line for each, which begins with its name.
        ValueError: ``skip`` names no rule, the batch has no batch dimension or fewer than 4
            samples, or the loss has no parameter to train or fails on the batch.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_world_model
        >>> from torchrl_moawm.objectives import WorldModelLoss
        >>> from torchrl_moawm.testing import check_loss_module, make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> check_loss_module(WorldModelLoss(make_world_model(group)), make_batch())
        {}
    """
    unknown = [name for name in skip if name not in RULES]
    if unknown:
        raise ValueError(f"Expected skip to name some of {list(RULES)}, got {unknown}.")
    if not batch.ndim:
        raise ValueError("Expected a batch of at least one batch dimension, got [].")
    if batch.numel() < 4:
        raise ValueError(f"Expected a batch of 4 samples or more, got {list(batch.shape)}.")
    if not any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError("Expected a loss with a parameter that requires a gradient, got none.")
    batch, rules = with_alive(batch.detach()), {n: r for n, r in RULES.items() if n not in skip}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken = _broken(loss, batch, rules)
    if broken and not report:
        raise AssertionError("\n".join(f"{name}: {what}" for name, what in broken.items()))
    return broken


def _broken(
    loss: LossModule,
    batch: TensorDictBase,
    rules: Mapping[str, Callable[[LossModule, TensorDictBase], None]],
) -> dict[str, str]:
    """What was found, by broken rule; a batch on which the loss fails is refused."""
    try:
        with reduced(loss, "mean"):
            run(loss, batch)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"Expected a batch on which the loss runs, forward raised {told}"
        ) from error
    broken = {}
    for name, rule in rules.items():
        try:
            with reduced(loss, "mean"):
                rule(loss, batch.clone())
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"raised {type(error).__name__}: "
            broken[name] = f"{kind}{error}"
    return broken
