"""Rows 5 to 11 of the notes with our layers: the worked examples, and the formulas compared with autograd."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import torchnotes.functional as F
from torchnotes import nn, optim

PRECISE = pytest.mark.parametrize("precise", (torch.float64, torch.float32), ids=str)
SLOPES = {
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "leaky_relu": lambda y: torch.where(y > 0, 1.0, 0.01).to(y),
    "relu": lambda y: (y > 0).to(y),
    None: torch.ones_like,
}


def assert_exact(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=0)


@PRECISE
def test_neuron(precise):
    """Row 5. z is 0 up to the rounding errors of 4/5 - 7/5 + 3/5; everything after it is exact."""
    x, w, p0, y = (
        torch.tensor(numbers, dtype=precise, requires_grad=True)
        for numbers in ([[1, 1]], [[4 / 5, -7 / 5]], [3 / 5], [[1]])
    )
    assert F.linear(x, w, p0).abs().item() <= torch.finfo(precise).eps
    predicted = F.linear(x, w, p0, activation="sigmoid")
    loss = F.mse_loss(predicted, y, reduction="sum")
    predicted.retain_grad()
    loss.backward()
    assert_exact(predicted, [[1 / 2]])
    assert_exact(loss, 1 / 4)
    assert_exact(predicted.grad, [[-1.0]])
    assert_exact(y.grad, [[1.0]])
    z = torch.zeros(1, 1, dtype=precise, requires_grad=True)
    assert_exact(torch.autograd.grad(F.sigmoid(z), z)[0], [[1 / 4]])
    assert_exact(p0.grad, [-1 / 4])
    assert_exact(w.grad, [[-1 / 4, -1 / 4]])
    assert_exact(x.grad, [[-1 / 5, 7 / 20]])


@PRECISE
def test_layers_without_activation_are_one_linear_map(precise):
    """Row 6: several layers are y = W^T x + b with W^T = W2^T W1^T."""
    model = nn.MLP((5, 7, 3, 4), activation=None, dtype=precise)
    x = torch.randn(6, 5, dtype=precise)
    product, shift = torch.eye(5, dtype=precise), torch.zeros(5, dtype=precise)
    for layer in model:
        product, shift = layer.weight @ product, layer.weight @ shift + layer.bias
    torch.testing.assert_close(model(x), x @ product.T + shift)


@PRECISE
@pytest.mark.parametrize("activation", SLOPES)
def test_backpropagation_with_samples_in_columns_and_in_rows(activation, precise):
    """Row 7: delta^L = -(y - a^L) f'(z^L), delta^l = (W^l)^T delta^(l+1) f'(z^l), grad_W = delta^(l+1) (a^l)^T."""
    sizes = (4, 6, 5, 3)
    model = torch.nn.Sequential(
        *(nn.Linear(k, m, bias=False, activation=activation, dtype=precise) for k, m in itertools.pairwise(sizes))
    )
    x, target = torch.randn(7, 4, dtype=precise), torch.randn(7, 3, dtype=precise)
    outputs = [x]
    for layer in model:
        outputs.append(layer(outputs[-1]))
    (0.5 * (target - outputs[-1]).square().sum()).backward()
    slope = SLOPES[activation]
    with torch.no_grad():
        a = [y.T for y in outputs]  # one column per sample
        delta = -(target.T - a[-1]) * slope(a[-1])
        for layer, before in zip(reversed(model), reversed(a[:-1]), strict=True):
            torch.testing.assert_close(layer.weight.grad, delta @ before.T)
            delta = layer.weight.T @ delta * slope(before)
        delta = (outputs[-1] - target) * slope(outputs[-1])
        for layer, before in zip(reversed(model), reversed(outputs[:-1]), strict=True):
            W = layer.weight.T  # z = a W
            torch.testing.assert_close(layer.weight.grad.T, before.T @ delta)
            delta = delta @ W.T * slope(before)


def test_batch_update_and_l2_term():
    """Row 8: W <- W - (eta/N) sum_i grad E(x_i); with (lambda/2) sum W^2 the gradient gains lambda W."""
    eta, decay = 0.3, 0.7
    layer = nn.Linear(4, 3, activation="tanh", dtype=torch.float64)
    start = layer.weight.detach().clone()
    x, target = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)

    def error(x, target):
        return 0.5 * (target - layer(x)).square().sum()

    of_samples = [torch.autograd.grad(error(x[i], target[i]), layer.weight)[0] for i in range(9)]
    mean = torch.stack(of_samples).mean(0)
    loss = error(x, target) / 9 + decay / 2 * layer.weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    torch.testing.assert_close(gradient, mean + decay * start)
    optimizer = optim.SGD([layer.weight], lr=eta, weight_decay=decay)
    (error(x, target) / 9).backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight, start - eta * (mean + decay * start))


@PRECISE
def test_relu_network(precise):
    """Row 9, up to the rounding of decimal fractions to binary. Zeros and ones are exact."""
    close = dict(rtol=4 * torch.finfo(precise).eps, atol=0)

    def leaf(numbers):
        return torch.tensor(numbers, dtype=precise, requires_grad=True)

    x = leaf([[1, 2, 3]])
    w1, b1, w2, b2 = leaf([[-0.8, 0.5, -1], [1.2, -0.7, 0.2]]), leaf([-0.4, 0.9]), leaf([[0.6, 1.1]]), leaf([-0.1])
    torch.testing.assert_close(F.linear(x, w1, b1), torch.tensor([[-3.2, 1.3]], dtype=precise), **close)
    h = F.linear(x, w1, b1, activation="relu")
    o = F.linear(h, w2, b2, activation="relu")
    h.retain_grad()
    o.retain_grad()
    torch.testing.assert_close(h, torch.tensor([[0, 1.3]], dtype=precise), **close)
    torch.testing.assert_close(o, torch.tensor([[1.33]], dtype=precise), **close)
    (0.5 * (o - 0.33).square().sum()).backward()
    for tensor, expected in (
        (o.grad, [[1.0]]),
        (w2.grad, [[0, 1.3]]),
        (b2.grad, [1.0]),
        (h.grad, [[0.6, 1.1]]),
        (w1.grad, [[0, 0, 0], [1.1, 2.2, 3.3]]),
        (b1.grad, [0, 1.1]),
    ):
        torch.testing.assert_close(tensor, torch.tensor(expected, dtype=precise), **close)


def test_two_layer_classifier():
    """Row 10: z1 -> leaky ReLU -> mask -> z2 -> softmax -> cross-entropy: dL/dz2 = y^ - y, dL/da1 = (y^ - y) W2^T M."""
    x, mask = torch.randn(8, 5, dtype=torch.float64), torch.rand(8, 6).gt(0.5).double()
    w1, w2 = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 5), (4, 6)))
    target = torch.randint(4, (8,))
    a1 = F.linear(x, w1, activation="leaky_relu", negative_slope=0.1)
    z2 = F.linear(a1 * mask, w2)
    for tensor in (a1, z2):
        tensor.retain_grad()
    F.cross_entropy(z2, target, reduction="sum").backward()
    delta = F.softmax(z2, 1) - torch.nn.functional.one_hot(target, 4)
    torch.testing.assert_close(z2.grad, delta, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(a1.grad, delta @ w2 * mask, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(w2.grad, delta.T @ (a1 * mask), rtol=1e-12, atol=1e-14)
    of_z1 = torch.where(a1 > 0, a1.grad, 0.1 * a1.grad)
    torch.testing.assert_close(w1.grad, of_z1.T @ x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("greatest", (1.0, 3.0))
def test_gradient_of_a_chain_of_sigmoids_vanishes(greatest):
    """Row 11: dy/dx = prod w_i s'(z_i), and |dy/dx| <= prod |w_i|/4, which is (1/4)^n for |w| <= 1."""
    n = 30
    weights = [greatest * (2 * torch.rand(1, 1, dtype=torch.float64) - 1) for _ in range(n)]
    x = torch.randn(50, 1, dtype=torch.float64, requires_grad=True)
    y, slopes = x, []
    for w in weights:
        y = F.linear(y, w, activation="sigmoid")
        slopes.append(y.detach() * (1 - y.detach()))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    product = math.prod(w * slope for w, slope in zip(weights, slopes, strict=True))
    torch.testing.assert_close(gradient, product, rtol=1e-12, atol=0)
    bound = math.prod(w.abs().item() / 4 for w in weights)
    assert (gradient.abs() <= bound * (1 + 1e-12)).all()
    assert (gradient != 0).all()
    if greatest == 1:
        assert bound <= 0.25**n
