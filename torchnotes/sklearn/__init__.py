"""Multilayer perceptrons as estimators of scikit-learn, which `import torchnotes` does not import."""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ImportError("torchnotes.sklearn requires scikit-learn: pip install scikit-learn or torchnotes[tools]")

from .classifier import Classifier as Classifier
from .regressor import Regressor as Regressor
