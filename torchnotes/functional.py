"""The operations under torch.nn.functional's names."""

from .ops.leaky_relu import leaky_relu as leaky_relu
from .ops.relu import relu as relu
from .ops.sigmoid import sigmoid as sigmoid
from .ops.tanh import tanh as tanh
