"""Matplotlib figures that notebooks show without pyplot, which would keep a reference and may need a display.

Importing this module requires matplotlib.
"""

import io
import sys
from typing import Any

from matplotlib.figure import Figure

WIDTH = 100  # CSS pixels per inch


class NotebookFigure(Figure):
    """A figure that is also shown by a cell that does not end with it."""

    _was_shown = False

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, bytes], dict[str, dict[str, int]]]:
        """What IPython shows, unless the user has registered a format for figures."""
        self._was_shown = True
        file = io.BytesIO()
        self.savefig(file, format="png")
        width, height = (round(inches * WIDTH) for inches in self.get_size_inches())
        return {"image/png": file.getvalue()}, {"image/png": {"width": width, "height": height}}

    def shown(self) -> "NotebookFigure":
        """Shows the figure when the running cell of a notebook ends, if the cell itself has not, like pyplot."""
        ipython: Any = sys.modules.get("IPython")  # there is no notebook without it
        shell: Any = ipython.get_ipython() if ipython else None
        if not hasattr(shell, "kernel"):  # a program or a terminal
            return self

        def when_the_cell_ends() -> None:
            shell.events.unregister("post_execute", when_the_cell_ends)
            if not self._was_shown:
                ipython.display.display(self)

        shell.events.register("post_execute", when_the_cell_ends)
        return self
