"""torch.nn's activations, computed by torchnotes, with the same constructor, attributes, repr and state_dict."""

import torch
from torch import Tensor

from .. import functional as F
from ._quantization import Unquantized

__all__ = ("LeakyReLU", "LogSoftmax", "ReLU", "Sigmoid", "Softmax", "Softplus", "Tanh")


class Sigmoid(torch.nn.Sigmoid):
    """Applies :func:`~torchnotes.functional.sigmoid` to each element, like :class:`torch.nn.Sigmoid`.

    Example:
        >>> nn.Sigmoid()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1192, 0.5000, 0.8808])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """Applies :func:`~torchnotes.functional.tanh` to each element, like :class:`torch.nn.Tanh`.

    Example:
        >>> nn.Tanh()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-0.9640,  0.0000,  0.9640])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class ReLU(torch.nn.ReLU):
    """Applies :func:`~torchnotes.functional.relu` to each element, like :class:`torch.nn.ReLU`.

    Args:
        inplace: Whether to overwrite the input with the result.

    Example:
        >>> nn.ReLU()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """Applies :func:`~torchnotes.functional.leaky_relu` to each element, like :class:`torch.nn.LeakyReLU`.

    Args:
        negative_slope: The factor for negative elements.
        inplace: Whether to overwrite the input with the result.

    Example:
        >>> nn.LeakyReLU(0.1)(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-0.2000,  0.0000,  2.0000])
    """

    qconfig = Unquantized()

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class Softplus(torch.nn.Softplus):
    """Applies :func:`~torchnotes.functional.softplus` to each element, like :class:`torch.nn.Softplus`.

    Args:
        beta: The sharpness b.
        threshold: Where b x is larger than this, the result is x.

    Example:
        >>> nn.Softplus()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1269, 0.6931, 2.1269])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)


class Softmax(torch.nn.Softmax):
    """Applies :func:`~torchnotes.functional.softmax` along a dimension, like :class:`torch.nn.Softmax`.

    Args:
        dim: The dimension along which the results sum to 1.

    Example:
        >>> nn.Softmax(dim=1)(torch.tensor([[0.0, 1.0]]))
        tensor([[0.2689, 0.7311]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """Applies :func:`~torchnotes.functional.log_softmax` along a dimension, like :class:`torch.nn.LogSoftmax`.

    Args:
        dim: The dimension along which the probabilities sum to 1.

    Example:
        >>> nn.LogSoftmax(dim=1)(torch.tensor([[0.0, 1.0]]))
        tensor([[-1.3133, -0.3133]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=5)
