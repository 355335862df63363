"""The operations of torchnotes that have derivatives, as data for the checks."""

from .activations import ACTIVATIONS
from .cross_entropy import CROSS_ENTROPY
from .linear import LINEAR
from .losses import LOSSES
from .normalization import NORMALIZATION
from .random import NOISES
from .rows import ROWS

OPERATIONS = {**ACTIVATIONS, **ROWS, **LINEAR, **NORMALIZATION, **LOSSES, **CROSS_ENTROPY, **NOISES}
