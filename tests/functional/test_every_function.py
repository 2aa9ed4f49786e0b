"""What holds for every function: gradients, vmap, compiled code, masks, order, half precision."""

import functools

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm import functional

FUNCTIONS = {  # its arguments, one letter each, and the numbers that follow them (or are named)
    "active_units": ("xa", ()),
    "clipped_policy_loss": ("xx", (0.2,)),
    "clipped_value": ("xx", (0.7,)),
    "clipped_value_loss": ("xxx", (0.7,)),
    "continuation_nll": ("xb", ()),
    "diagonal_gaussian_kl": ("xsxs", ()),
    "diagonal_gaussian_nll": ("xsx", ()),
    "ensemble_disagreement": ("x", ()),
    "explained_variance": ("xxm", ()),
    "free_nats": ("x", (0.2,)),
    "gather_others": ("x", (-2,)),
    "huber_error_norm": ("xxm", {"delta": 0.7}),
    "masked_mean": ("xm", ()),
    "moa_cross_entropy": ("xi", ()),
    "normalized_advantage": ("xm", ()),
    "shuffle_valid": ("xa", ()),
    "squared_error_norm": ("xxm", ()),
}
OF_MASKS = ("unbroken_steps",)  # masks in, a mask out: in test_steps.py
OF_ALTERNATIVES = ("choice_influence", "gaussian_influence")  # rewards: in test_influence.py
REORDERED = ("gather_others", "ensemble_disagreement")  # whose features are not the last dimension
MASKED = [name for name, (letters, _) in FUNCTIONS.items() if letters[-1] in "ma"]
PLAIN = [name for name in FUNCTIONS if name not in (*MASKED, *REORDERED)]
LOGS = ("active_units", "explained_variance")  # no term, so they carry no gradient
KEEP_HALF = (*LOGS, "clipped_value", "free_nats", "gather_others", "shuffle_valid")
CASES = [  # an optional mask given, and not given
    *((name, letters) for name, (letters, _) in FUNCTIONS.items()),
    *((name, FUNCTIONS[name][0][:-1]) for name in MASKED),
]
every_case = pytest.mark.parametrize(("name", "letters"), CASES)


@pytest.fixture
def draw(normal, boolean, generator):
    """``draw("xsm", 5, 3, 4)``: numbers, scales, masks (``a`` of agents), indices."""

    def arguments(letters, *shape):
        make = {
            "x": lambda: normal(*shape),
            "s": lambda: normal(*shape).exp(),
            "m": lambda: boolean(*shape),
            "a": lambda: boolean(*shape[:-1]),
            "b": lambda: boolean(*shape),
            "i": lambda: torch.randint(shape[-1], shape[:-1], generator=generator),
        }
        return [make[letter]() for letter in letters]

    return arguments


def called(name):
    """The function of its arguments alone."""
    function, rest = getattr(functional, name), FUNCTIONS[name][1]
    if isinstance(rest, dict):
        return functools.partial(function, **rest)
    return lambda *args: function(*args, *rest)


def test_every_function_is_here():
    assert {*FUNCTIONS, *OF_MASKS, *OF_ALTERNATIVES} == set(functional.__all__)


@every_case
def test_gradient_is_the_numeric_one_in_every_argument(name, letters, draw):
    args = draw(letters, 3, 2, 2)
    inputs = [arg.requires_grad_() for arg in args if arg.is_floating_point()]
    rest = args[len(inputs) :]
    if name == "active_units":  # a count
        assert not called(name)(*args).requires_grad
    else:
        assert torch.autograd.gradcheck(lambda *x: called(name)(*x, *rest), inputs)


@every_case
def test_eager_vmap_and_compiled_agree(name, letters, draw):
    """On each slice; a clip may be a number for each of them."""
    function, rest = getattr(functional, name), FUNCTIONS[name][1]
    if isinstance(rest, dict):
        function, rest = called(name), ()
    clips = [torch.full((3,), x).double() for x in rest if isinstance(x, float)]
    fixed = {} if clips or not rest else {"agent_dim": -2}
    function = functools.partial(function, **fixed)
    args = [*draw(letters, 3, 6, 2, 4), *clips]
    expected = torch.stack([function(*(arg[k] for arg in args)) for k in range(3)])
    assert_close(torch.vmap(function)(*args), expected)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*(arg[0] for arg in args)), expected[0])


@pytest.mark.parametrize(("name", "letters"), [x for x in CASES if x[0] not in REORDERED])
def test_agents_in_another_order_have_the_same_values(name, letters, draw):
    """What is one number for all of them stays; the others of each are in ``properties``."""
    args = draw(letters, 5, 6, 3, 4)
    expected, found = called(name)(*args), called(name)(*(arg.flip(2) for arg in args))
    expected = expected.flip(2) if expected.ndim else expected
    if name == "shuffle_valid" and letters == "xa":  # anything may stand behind the mask
        found, expected = (x[args[1].flip(2)] for x in (found, expected))
    assert_close(found, expected)


@pytest.mark.parametrize("name", PLAIN)
def test_nan_of_one_element_stays_there(name, draw):
    args = draw(FUNCTIONS[name][0], 4, 3, 2)
    args[0][2, 1, 0] = torch.nan
    (grad,) = gradients(lambda x: called(name)(x, *args[1:]), args[0])
    where = called(name)(*args).isnan().nonzero().tolist()
    assert where in ([[2, 1]], [[2, 1, 0]])
    assert {tuple(at[:2]) for at in grad.isnan().nonzero().tolist()} <= {(2, 1)}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", MASKED)
def test_what_stands_behind_the_mask_reaches_neither_value_nor_gradient(name, bad, draw):
    *numbers, mask = draw(FUNCTIONS[name][0], 4, 6, 3, 2)
    valid = mask if mask.ndim == 4 else mask.unsqueeze(-1)
    weight = torch.linspace(-1, 1, 144, dtype=torch.float64).reshape(4, 6, 3, 2)

    def weighted(*x):
        value = called(name)(*x, mask)
        value = torch.where(valid, value, 0.0) if name == "shuffle_valid" else value
        return value * (weight if value.ndim == 4 else weight[0, 0, 0, 0])

    for which in range(len(numbers)):
        other = list(numbers)
        other[which] = torch.where(valid, numbers[which], bad)
        assert_close(weighted(*other), weighted(*numbers))
        if name not in LOGS:
            assert_close(gradients(weighted, *other), gradients(weighted, *numbers))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [x for x in FUNCTIONS if x not in KEEP_HALF])
def test_half_precision_gives_what_its_numbers_give_in_float32(name, half, generator):
    """Bit by bit; positive numbers, for some are scales."""
    letters = FUNCTIONS[name][0].replace("m", "")
    args = [(torch.rand(4, 3, 40, generator=generator) + 0.5).to(half) for _ in letters]
    if letters[-1] == "i":
        args[-1] = torch.zeros(4, 3, dtype=torch.long)
    if letters[-1] == "b":
        args[-1] = args[-1] > 1.0
    found, expected = (called(name)(*x) for x in (args, single(args)))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, found.to(half).float())  # or the test would see nothing


def single(args):
    return [x.float() if x.is_floating_point() else x for x in args]
