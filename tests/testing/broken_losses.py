"""Losses with one defect each, and the rules of the contract that it breaks."""

import torch
from tensordict.nn import dispatch

from tests.objectives.factory import right
from torchrl_moawm import MOALoss, WorldModelLoss
from torchrl_moawm.objectives import BatchView
from torchrl_moawm.objectives.masks import get_required


class Altered(WorldModelLoss):
    """A world model's loss with a hook before and behind its forward."""

    def before(self, tensordict):
        return tensordict

    def after(self, outputs, tensordict):
        return outputs

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict):
        return self.after(super().forward(self.before(tensordict)), tensordict)


class Logging(Altered):
    """One that logs one thing more."""

    out_keys = ["loss_obs", "loss_reward", "log"]

    def after(self, outputs, tensordict):
        return outputs.set("log", self.log(outputs, tensordict))


class Drifts(Logging):
    def log(self, outputs, tensordict):
        self.calls = getattr(self, "calls", 0.0) + 1.0
        return torch.tensor(self.calls)


class AddsAnEntry(Altered):
    def before(self, tensordict):
        return tensordict.set(("agents", "extra"), tensordict["agents", "observation"])


class NamesTheTime(Altered):
    def before(self, tensordict):
        tensordict.names = [*[None] * (tensordict.ndim - 1), "time"]
        return tensordict


class OverwritesInPlace(Altered):
    def before(self, tensordict):
        get_required(tensordict, self._key("reward"), "reward").mul_(2.0)
        return tensordict


class ReplacesAnEntry(Altered):
    def before(self, tensordict):
        key = self._key("reward")
        return tensordict.set(key, get_required(tensordict, key, "reward").clone())


class ForgetsAnOutKey(Logging):
    out_keys = ["loss_obs", "loss_reward"]

    def log(self, outputs, tensordict):
        return torch.zeros(())


class ReadsASecretEntry(Altered):
    def before(self, tensordict):
        latent = tensordict.get(("agents", "latent"), None)
        if latent is None:
            return tensordict
        observation = tensordict["agents", "observation"] + latent.sum(-1, keepdim=True)
        return tensordict.copy().set(("agents", "observation"), observation)


class NeedsASecretEntry(Altered):
    def before(self, tensordict):
        get_required(tensordict, ("agents", "latent"), "a secret")
        return tensordict


class ReadsASecretFlag(Altered):
    """Which is False everywhere in the batch, and so harmless there."""

    def after(self, outputs, tensordict):
        done = tensordict.get("done", None)
        ended = done is not None and bool(done.any())
        return outputs.set("loss_obs", outputs["loss_obs"] * (2.0 if ended else 1.0))


class InKeysStay(Altered):
    @property
    def in_keys(self):
        names = ("observation", "action", "mask", "alive", "done")
        after = ("observation", "reward", "observation_mask")
        return [("agents", x) for x in names] + [("next", "agents", x) for x in after]


class MissingIsZero(Altered):
    def before(self, tensordict):
        key = self._key("reward")
        zero = torch.zeros_like(get_required(tensordict, self._key("observation"), "x")[..., :1])
        return tensordict.copy().set(key, tensordict.get(key, zero))


class NamelessKeyError(Altered):
    def before(self, tensordict):
        if tensordict.get(self._key("reward"), None) is None and "reward" not in self._keys.named:
            raise KeyError("Something is missing.")
        return tensordict


class MissingIsAnAttributeError(Altered):
    """It works with what ``get`` returns for an entry that is not there."""

    def before(self, tensordict):
        key = self._key("reward")
        return tensordict.copy().set(key, tensordict.get(key).clone())


class RenamedIsAnAttributeError(Altered):
    def before(self, tensordict):
        reward = tensordict.get(("next", "agents", "reward"), None)
        if reward is None and tensordict.get(self._key("reward"), None) is not None:
            raise AttributeError("no reward")
        return tensordict


class HardCodedKey(Altered):
    def before(self, tensordict):
        return tensordict.copy().set(self._key("reward"), tensordict["next", "agents", "reward"])


class RenamingWeighsTwice(Altered):
    def after(self, outputs, tensordict):
        weight = 2.0 if "reward" in self._keys.named else 1.0
        return outputs.set("loss_reward", weight * outputs["loss_reward"])


class NamedMaskMayBeAbsent(Altered):
    def _read_keys(self):
        super()._read_keys()
        self._keys.named = frozenset()


class ForgetsItsGroup(Altered):
    def set_keys(self, **keys):
        plain = self._AcceptedKeys()
        super().set_keys(**{k: getattr(plain, k) if v is None else v for k, v in keys.items()})


class DetachesATerm(Altered):
    def after(self, outputs, tensordict):
        return outputs.set("loss_reward", outputs["loss_reward"].detach())


class LogsWithGradient(Logging):
    def log(self, outputs, tensordict):
        return outputs["loss_obs"] + outputs["loss_reward"]


class InfiniteTerm(Altered):
    def after(self, outputs, tensordict):
        return outputs.set("loss_obs", outputs["loss_obs"] + torch.inf)


class TermWithoutGradient(Altered):
    def after(self, outputs, tensordict):
        return outputs.set("loss_reward", 0.0 * outputs["loss_reward"])


class GradientIsNaN(Altered):
    def after(self, outputs, tensordict):
        return outputs.set("loss_obs", outputs["loss_obs"] + (0.0 * outputs["loss_obs"]).sqrt())


class CountsPadding(Logging):
    def log(self, outputs, tensordict):
        return torch.tensor(float(tensordict["agents", "observation"].numel()))


class DividesByBatchSize(Altered):
    def _reduce(self, loss, valid):
        total = loss if valid is None else torch.where(right(valid, loss), loss, 0.0)
        return {"none": total, "sum": total.sum(), "mean": total.mean()}[self.reduction]


class Raw(BatchView):
    """A view that zeroes nothing of what a network reads."""

    def inputs(self, network):
        return self.tensordict.select(*network.in_keys, strict=False)


class MultipliesByMask(Altered):
    def _view(self, tensordict):
        return Raw(self._keys, tensordict, super()._view(tensordict).samples)

    def _reduce(self, loss, valid):
        weight = torch.ones_like(loss) if valid is None else right(valid, loss).to(loss)
        total = weight * loss
        mean = total.sum() / weight.sum().clamp_min(1)
        return {"none": total, "sum": total.sum(), "mean": mean}[self.reduction]


class CleansOnlyTheLoss(Altered):
    """The value is right; the gradient behind a mask is NaN."""

    def _view(self, tensordict):
        return Raw(self._keys, tensordict, super()._view(tensordict).samples)


class Forgetful(BatchView):
    """A view that takes everybody to have acted at t-1."""

    def _acted(self, group):
        return None


class IgnoresPreviousMask(MOALoss):
    def _view(self, tensordict):
        return Forgetful(self._keys, tensordict, super()._view(tensordict).samples)


class IgnoresRowMask(Altered):
    def _view(self, tensordict):
        return BatchView(self._keys, tensordict, None)


class CountsTheDead(Altered):
    """Divides by all agents of every row in which somebody lives."""

    def _reduce(self, loss, valid):
        if self.reduction != "mean" or valid is None:
            return super()._reduce(loss, valid)
        rows = right(valid, loss).any(-1).sum() if valid.ndim == loss.ndim else valid.sum()
        zeroed = torch.where(right(valid, loss), loss, 0.0)
        return zeroed.sum() / (rows * loss.shape[-1])


class MeanOfMeans(Altered):
    """Over the rows, of the mean over the agents of each."""

    def _reduce(self, loss, valid):
        if self.reduction != "mean" or valid is None:
            return super()._reduce(loss, valid)
        valid = right(valid, loss).expand_as(loss)
        of_rows = torch.where(valid, loss, 0.0).sum(-1) / valid.sum(-1).clamp_min(1)
        return of_rows.sum() / valid.any(-1).sum().clamp_min(1)


class NobodyIsNaN(Altered):
    def _reduce(self, loss, valid):
        if self.reduction != "mean" or valid is None:
            return super()._reduce(loss, valid)
        valid = right(valid, loss).expand_as(loss)
        return torch.where(valid, loss, 0.0).sum() / valid.sum()


class MeanIsSum(Altered):
    """Summed over the batch, so that its weight grows with the batch."""

    def _reduce(self, loss, valid):
        out = super()._reduce(loss, valid)
        count = loss.numel() if valid is None else right(valid, loss).sum()
        return out * count if self.reduction == "mean" else out


class SumIsMean(Altered):
    def _reduce(self, loss, valid):
        out = super()._reduce(loss, valid)
        count = loss.numel() if valid is None else right(valid, loss).sum()
        return out / count if self.reduction == "sum" else out


class NoneKeepsTheMasked(Altered):
    def _reduce(self, loss, valid):
        if self.reduction != "none" or valid is None:
            return super()._reduce(loss, valid)
        return torch.where(right(valid, loss), loss, 1.0)


class NoneForgetsItsWeight(Altered):
    def _reduce(self, loss, valid):
        return super()._reduce(loss, valid) * (1.0 if self.reduction == "none" else 0.5)


class KnowsItsHorizon(Logging):
    def log(self, outputs, tensordict):
        return torch.tensor(float(tensordict["agents", "observation"].shape[-3]))


class TensorDictOnly(Altered):
    def forward(self, tensordict):
        return super().forward(tensordict)


class IsItsOwnCopy(Altered):
    def __deepcopy__(self, memo):
        return self


class SavesTooLittle(Altered):
    def state_dict(self, *args, **settings):
        state = super().state_dict(*args, **settings)
        return {key: value for key, value in state.items() if "coeff" not in key}


class CannotBePickled(Altered):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.activation = lambda x: x


BROKEN = {  # the rule that must speak first, and those broken by the same defect
    Drifts: ["repeatable"],
    AddsAnEntry: ["input_unchanged"],
    NamesTheTime: ["input_unchanged"],
    OverwritesInPlace: ["input_unchanged"],
    ReplacesAnEntry: ["input_unchanged"],
    ForgetsAnOutKey: ["out_keys"],
    ReadsASecretEntry: ["in_keys"],
    NeedsASecretEntry: ["in_keys", "keyword_call"],
    ReadsASecretFlag: ["in_keys"],
    InKeysStay: ["in_keys"],
    MissingIsZero: ["missing_keys"],
    NamelessKeyError: ["missing_keys"],
    MissingIsAnAttributeError: ["missing_keys", "renamed_keys"],
    HardCodedKey: ["renamed_keys"],
    RenamedIsAnAttributeError: ["renamed_keys"],
    RenamingWeighsTwice: ["renamed_keys"],
    NamedMaskMayBeAbsent: ["renamed_keys"],
    ForgetsItsGroup: ["default_keys"],
    DetachesATerm: ["terms_and_logs", "gradients"],
    LogsWithGradient: ["terms_and_logs"],
    InfiniteTerm: ["terms_and_logs", "mean_is_sum_over_count"],
    TermWithoutGradient: ["gradients"],
    GradientIsNaN: ["gradients"],
    CountsPadding: ["padding"],
    DividesByBatchSize: ["padding", "mean_is_sum_over_count"],
    MultipliesByMask: ["padding", "masks_exclude"],
    CleansOnlyTheLoss: ["masks_exclude"],
    IgnoresPreviousMask: ["masks_exclude", "mean_is_sum_over_count"],
    IgnoresRowMask: ["padding", "masks_exclude", "mean_is_sum_over_count"],
    CountsTheDead: ["mean_is_sum_over_count"],
    MeanOfMeans: ["mean_is_sum_over_count"],
    NobodyIsNaN: ["mean_is_sum_over_count"],
    MeanIsSum: ["mean_is_sum_over_count"],
    SumIsMean: ["mean_is_sum_over_count"],
    NoneKeepsTheMasked: ["mean_is_sum_over_count"],
    NoneForgetsItsWeight: ["mean_is_sum_over_count"],
    KnowsItsHorizon: ["batch_shapes"],
    TensorDictOnly: ["keyword_call"],
    IsItsOwnCopy: ["deepcopy", "state_dict"],
    SavesTooLittle: ["state_dict"],
    CannotBePickled: ["pickle"],
}
