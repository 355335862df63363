"""Linear with its additional options, and MLP."""

import numpy
import pytest
import torch

import torchnotes.functional as F
from checks import ACTIVATIONS
from torchnotes import nn


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_uses_our_operation(activation):
    layer = nn.Linear(4, 3, activation=activation, negative_slope=0.3)
    x = torch.randn(2, 5, 4)
    y = layer(x)
    expected = F.linear(x, layer.weight, layer.bias, activation=activation, negative_slope=0.3)
    assert torch.equal(y, expected)


def test_device_and_dtype():
    assert nn.Linear(4, 3, device="meta").weight.is_meta
    assert nn.Linear(4, 3, dtype=torch.float64).bias.dtype is torch.float64
    torch.manual_seed(1)
    layer = nn.Linear(4, 3)
    torch.manual_seed(1)
    assert torch.equal(layer.weight, torch.nn.Linear(4, 3).weight)


def test_repr_shows_the_options():
    layer = nn.Linear(4, 3, activation="leaky_relu", negative_slope=0.3, init="he")
    assert "activation='leaky_relu', negative_slope=0.3, init='he'" in repr(layer)
    assert "activation" not in repr(nn.Linear(4, 3))


@pytest.mark.parametrize("options", (dict(activation="gelu"), dict(init="random")), ids=str)
def test_bad_options(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be one of .* Got: '{options[name]}'"):
        nn.Linear(4, 3, **options)


def test_mlp():
    model = nn.MLP((4, 8, 6, 3), "tanh", init="glorot")
    assert [type(layer) for layer in model] == [nn.Linear] * 3
    assert [layer.activation for layer in model] == ["tanh", "tanh", None]
    assert {layer.init for layer in model} == {"glorot"}
    x = torch.randn(5, 4)
    y = x
    for layer in model[:-1]:
        y = torch.tanh(torch.nn.functional.linear(y, layer.weight, layer.bias))
    torch.testing.assert_close(model(x), torch.nn.functional.linear(y, model[-1].weight, model[-1].bias))
    assert list(nn.MLP((4, 3)).state_dict()) == ["0.weight", "0.bias"]


def test_mlp_with_everything():
    model = nn.MLP(
        (4, 8, 3), "leaky_relu", negative_slope=0.2, batch_norm=True, dropout=0.3, gaussian_dropout=0.2,
        dtype=torch.float64,
    )  # fmt: skip
    kinds = [nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.GaussianDropout, nn.Linear]
    assert [type(layer) for layer in model] == kinds
    assert model[0].bias is None
    assert (model[1].activation, model[1].negative_slope) == ("leaky_relu", 0.2)
    assert (model[2].p, model[3].p) == (0.3, 0.2)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    x = torch.randn(5, 4, dtype=torch.float64)
    model(x)
    model.eval()
    norm = model[1]
    z = torch.nn.functional.batch_norm(
        x @ model[0].weight.T, norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    h = torch.nn.functional.leaky_relu(z, 0.2)
    torch.testing.assert_close(model(x), torch.nn.functional.linear(h, model[-1].weight, model[-1].bias))


@pytest.mark.parametrize(
    ("options", "hidden"),
    (
        ({}, [nn.Linear]),
        ({"batch_norm": True}, [nn.Linear, nn.BatchNorm1d]),
        ({"dropout": 0.3}, [nn.Linear, nn.Dropout]),
        ({"gaussian_dropout": 0.2}, [nn.Linear, nn.GaussianDropout]),
    ),
)
def test_mlp_with_each_option_alone(options, hidden):
    assert [type(layer) for layer in nn.MLP((4, 8, 3), **options)] == [*hidden, nn.Linear]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    (
        ((8, 2), TypeError, r"all sizes in one sequence: write MLP\(\(8, 2\)\)\. MLP\(\(8, 32, 2\)\) has 8 inputs"),
        ((8,), TypeError, r"a sequence of integers, the sizes\. Got: 8\. MLP\(\("),
        (("8",), TypeError, r"a sequence of integers, the sizes\. Got: '8'\. MLP\(\("),
        (((8, 2.0),), TypeError, r"a sequence of integers, the sizes\. Got: \(8, 2\.0\)"),
        ((None,), TypeError, r"Got: None"),
        (((),), ValueError, r"at least two sizes\. Got: \(\)"),
        (([8],), ValueError, r"at least two sizes\. Got: \[8\]\. MLP\(\("),
        (([8, 0],), ValueError, r"positive sizes\. Got: \[8, 0\]\. MLP\(\("),
        (([8, -2, 2],), ValueError, r"positive sizes\. Got: \[8, -2, 2\]"),
    ),
)
def test_mlp_explains_the_expected_sizes(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.MLP(*arguments)


def test_sizes_of_an_mlp_may_be_any_sequence_of_integers():
    for sizes in ([4, 3], range(4, 2, -1), torch.tensor([4, 3]), torch.Size((4, 3)), numpy.array([4, 3])):
        assert (nn.MLP(sizes)[0].in_features, nn.MLP(sizes)[0].out_features) == (4, 3)
