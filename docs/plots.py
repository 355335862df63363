"""The directive `plot`, which draws the figure of an operation, an optimizer or an option when the site is built."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from torchnotes import optim
from torchnotes.testing.operations import OPERATIONS

from .curves import CURVES, of_record
from .derivation import ROOT
from .figures import Drawing, save
from .histograms import HISTOGRAMS
from .paths import PATHS, Paths

DRAWINGS: dict[str, Drawing] = {**CURVES, **HISTOGRAMS, **PATHS}


def drawing_of(name: str) -> Drawing | None:
    """The entry of a table, or the default for operations and optimizers without one."""
    if name in DRAWINGS:
        return DRAWINGS[name]
    if name in OPERATIONS:
        return of_record(name)
    if name in dir(optim) and name[0].isupper():
        return Paths(getattr(optim, name))
    return None


def is_current(picture: Path) -> bool:
    """Whether it was drawn after the last change of the code."""
    code = [*ROOT.glob("docs/*.py"), *ROOT.glob("torchnotes/**/*.py"), *ROOT.glob("torchnotes/*.so")]
    return picture.exists() and picture.stat().st_mtime > max(path.stat().st_mtime for path in code)


class Plot(SphinxDirective):
    """Inserts nothing if there is no plot of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        drawing = drawing_of(name)
        if drawing is None:
            return []
        picture = Path(self.env.srcdir) / f"reference/{name}.svg"
        picture.parent.mkdir(exist_ok=True)
        if not is_current(picture):
            save(drawing, picture)
        lines = [f".. figure:: /reference/{name}.svg", f"   :alt: {drawing.alt}", "", f"   {drawing.caption}"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("plot", Plot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
