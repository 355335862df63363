"""What all figures of the reference have in common: their colors, and how they are saved."""

from pathlib import Path
from typing import Protocol

import matplotlib
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchnotes import _html

GREY = _html.GREY
COLORS = ("#2f80c2", "#d9651b", "#149474", "#b0659b")  # after Okabe and Ito, for the color-blind
STYLES = ("-", "--", "-.", ":")  # to tell curves apart without colors
LOOK = {
    "axes.prop_cycle": cycler(color=COLORS, linestyle=STYLES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    # Fixed margins, because Matplotlib's layouts take half of the time.
    "figure.subplot.left": 0.06,
    "figure.subplot.right": 0.98,
    "figure.subplot.bottom": 0.24,
    "figure.subplot.top": 0.88,
    "font.size": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "torchnotes",  # makes the file reproducible
    **_html.LOOK,
}


class Drawing(Protocol):
    alt: str  # for readers who do not see it
    caption: str  # reStructuredText

    def draw(self, figure: Figure) -> None: ...


def save(drawing: Drawing, path: Path) -> None:
    with matplotlib.rc_context(LOOK), torch.random.fork_rng():
        torch.manual_seed(0)
        figure = Figure(figsize=(8.4, 2.8))
        drawing.draw(figure)
        figure.savefig(path, metadata={"Date": None})


def legend_below(axes: Axes) -> None:
    """Adds a legend for all plots of the figure, which have the same labels."""
    handles, labels = axes.get_legend_handles_labels()
    if any(labels):
        axes.figure.legend(handles, labels, loc="lower center", ncols=len(labels))
