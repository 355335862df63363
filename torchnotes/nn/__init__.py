"""The modules under torch.nn's names."""

from .activation import LeakyReLU as LeakyReLU, ReLU as ReLU, Sigmoid as Sigmoid, Tanh as Tanh
