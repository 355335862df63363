"""torch.nn's activations, computed by torchnotes, with the same constructor, attributes, repr and state_dict."""

import torch
from torch import Tensor

from .. import functional as F


class Sigmoid(torch.nn.Sigmoid):
    """1 / (1 + e^-input), like torch.nn.Sigmoid."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """The hyperbolic tangent of the input, like torch.nn.Tanh."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class ReLU(torch.nn.ReLU):
    """max(0, input), like torch.nn.ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """The input where it is positive, otherwise negative_slope * input, like torch.nn.LeakyReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class Softmax(torch.nn.Softmax):
    """e^input divided by its sum along a dimension, like torch.nn.Softmax."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """The logarithm of the softmax along a dimension, like torch.nn.LogSoftmax."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=5)
