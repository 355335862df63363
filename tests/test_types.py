"""The Literal types of string options list what the code accepts. tests/types_of_the_api.py is for the type checker."""

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from test_docstrings import PUBLIC

from torchnotes import functional as F
from torchnotes import init, nn, optim
from torchnotes.nn.linear import Initialization
from torchnotes.ops._loss import _ENUM, Reduction
from torchnotes.ops.activations import ACTIVATIONS, Activation
from torchnotes.ops.cross_entropy._formulas import Empty
from torchnotes.optim._fused import Rounding
from torchnotes.optim.newton import Method

x, y, weight = torch.rand(2, 3), torch.tensor([0, 1]), torch.ones(3, 3)


def strings(kind: Any) -> set[str]:
    """The strings of a Literal, or of Literals in other types."""
    if get_origin(kind) is Literal:
        return {value for value in get_args(kind) if isinstance(value, str)}
    return {value for each in get_args(kind) for value in strings(each)}


def test_types_list_the_tables():
    assert get_args(Activation) == tuple(ACTIVATIONS)
    assert strings(Reduction) == _ENUM.keys()
    assert get_args(init.Scheme) == (*init.SCHEMES, *init.ALIASES)
    assert get_args(Initialization) == ("torch", *init.SCHEMES, *init.ALIASES)


OPTIONS = {  # what accepts each type
    "reduction": lambda value: F.cross_entropy(x, y, reduction=value),
    "empty": lambda value: F.cross_entropy(x, y, empty=value),
    "activation": lambda value: F.linear(x, weight, activation=value),
    "init": lambda value: nn.Linear(3, 3, init=value),
    "scheme": lambda value: init.initialize_(nn.Linear(3, 3), value),
    "mode": lambda value: init.glorot_uniform_(torch.empty(3, 3), mode=value),
    "nonlinearity": lambda value: init.he_uniform_(torch.empty(3, 3), nonlinearity=value),
    "rounding": lambda value: optim.SGD([weight], rounding=value).step(),
    "method": lambda value: optim.Newton([weight], method=value),
}
TYPES = {
    "reduction": Reduction,
    "empty": Empty,
    "activation": Activation,
    "init": Initialization,
    "scheme": init.Scheme,
    "mode": init.Mode,
    "nonlinearity": init.Nonlinearity,
    "rounding": Rounding,
    "method": Method,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_value_of_a_type_is_accepted_and_no_other(option: str):
    for value in strings(TYPES[option]):
        OPTIONS[option](value)
    with pytest.raises(ValueError, match=r"wrong|is not a valid value"):
        OPTIONS[option]("wrong")


@pytest.mark.parametrize("public", PUBLIC, ids=PUBLIC.get)
def test_every_public_option_has_its_type(public: Any):
    function = public.__init__ if inspect.isclass(public) else public
    if not inspect.isfunction(function) or not function.__module__.startswith("torchnotes."):
        return
    hints = get_type_hints(function)
    for option in inspect.signature(function).parameters.keys() & TYPES.keys():
        assert strings(hints[option]) == strings(TYPES[option])


def test_the_schemes_of_a_signal_have_their_type():
    from torchnotes import signal

    assert strings(get_type_hints(signal.propagation)["schemes"]) == strings(init.Scheme)
