"""Histograms of random numbers: from initializers, or of dropout's factors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from torchnotes import functional as F
from torchnotes import init
from torchnotes.testing.operation import Options, described

from .figures import COLORS, legend_below


@dataclass
class Histograms:
    """What a random function with several options makes of ones."""

    calls: Sequence[tuple[Callable[..., Tensor], Options]]
    caption: str = "250,000 numbers each, and their mean ± the standard deviation."
    alt: str = "Histograms of the numbers, with their mean and standard deviation"

    def draw(self, figure: Figure) -> None:
        plots = figure.subplots(1, len(self.calls))
        for axes, (function, options) in zip(plots, self.calls, strict=True):
            numbers = function(torch.ones(1000, 250), **options).flatten()
            axes.hist(numbers, bins=80, color=COLORS[0], alpha=0.5)
            for sign, label in ((-1, "mean ± deviation"), (1, None)):
                axes.axvline(numbers.mean() + sign * numbers.std(), color=COLORS[2], linestyle="--", label=label)
            title = f"{function.__name__}\n{described(options)}" if options else function.__name__
            axes.set(title=title, yticks=[])
        legend_below(plots[0])


BY_FAN = (init.he_normal_, init.lecun_normal_, init.glorot_uniform_, init.default_uniform_)
FACTORS = "The factors of 250,000 elements, and their mean ± the standard deviation."
HISTOGRAMS = {
    "dropout": Histograms([(F.dropout, dict(p=p)) for p in (0.2, 0.5)], FACTORS),
    "gaussian_dropout": Histograms(
        [(F.gaussian_dropout, options) for options in (dict(sigma=0.5), dict(p=0.5))], FACTORS
    ),
    "uniform_": Histograms([(init.uniform_, options) for options in ({}, dict(a=-2.0, b=1.0))]),
    "normal_": Histograms([(init.normal_, options) for options in ({}, dict(mean=1.0, std=0.5))]),
    "trunc_normal_": Histograms([(init.trunc_normal_, options) for options in ({}, dict(a=0.5, b=3.0))]),
    "initializers": Histograms([(fill, {}) for fill in BY_FAN], "The weights of 250 inputs and 1000 outputs."),
}
