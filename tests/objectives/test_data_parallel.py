"""K ranks on K parts of a batch: exactly the gradient of one process on the whole."""

import pytest
import torch
from torch.testing import assert_close

from torchrl_moawm import set_data_parallel

from .factory import make_moa, terms
from .ranks import LOSSES, make, make_whole, outcome, part_of, run_ranks, steps, updated

LOCAL = ("z_gap", "teacher_z_gap", "active_units", "teacher_active_units", "explained_variance")
EXACT = {"rtol": 1e-6, "atol": 1e-12}


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def ranks(request, tmp_path_factory):
    """What every rank found; gloo on this machine, each rank a process."""
    return run_ranks(request.param, tmp_path_factory.mktemp("ranks"))


def alone(name, nobody=False):
    batch = make_whole(name, nobody=nobody)
    loss = updated(make(name), batch)
    outputs = loss(batch)
    terms(outputs).backward()
    return outcome(loss, outputs)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("way", ["ddp", "hand", "nobody"])
def test_the_gradient_is_that_of_one_process(ranks, name, way):
    expected = alone(name, nobody=way == "nobody")
    for found in ranks:
        assert_close(found[name, way]["grads"], expected["grads"], **EXACT)
        assert_close(found[name, way]["buffers"], expected["buffers"], **EXACT)


@pytest.mark.parametrize("name", LOSSES)
def test_terms_and_logs_average_to_those_of_one_process(ranks, name):
    expected = alone(name)["logs"]
    drawn = ("entropy",) if name == "policy, continuous" else ()  # estimated by a draw
    for key in expected:
        if not key.startswith((*LOCAL, *drawn)):
            mean = torch.stack([found[name, "hand"]["logs"][key] for found in ranks]).mean(0)
            assert_close(mean, expected[key], **EXACT)


def test_the_auxiliary_losses_may_be_skipped_in_some_epochs(ranks):
    expected = steps(make_whole("total"), ranks=False)
    for found in ranks:
        assert_close(found["steps"], expected, **EXACT)


def test_the_mean_of_masked_means_is_another_gradient():
    """What the mode is for: the parts' own means differ from the whole's by far."""
    loss, grads = make("moa"), []
    for rank in range(2):
        loss.zero_grad()
        terms(loss(part_of(make_whole("moa"), rank, 2))).backward()
        grads.append(torch.cat([p.grad.flatten() for p in loss.parameters()]))
    whole = torch.cat([grad.flatten() for grad in alone("moa")["grads"].values()])
    assert (sum(grads) / 2 - whole).norm() > 0.1 * whole.norm()


def test_it_needs_a_process_group():
    loss = set_data_parallel(make("total"))
    with pytest.raises(RuntimeError, match="init_process_group"):
        loss(make_whole("total"))
    one = make_moa(reduction="sum")
    with pytest.raises(RuntimeError, match="init_process_group"):
        set_data_parallel(one.double())(make_whole("moa"))


def test_it_can_be_switched_off():
    loss = set_data_parallel(set_data_parallel(make("total")), False)
    assert_close(terms(loss(make_whole("total"))), terms(make("total")(make_whole("total"))))
    with pytest.raises(ValueError, match="mode"):
        set_data_parallel(loss, None)
