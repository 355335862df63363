"""Runs the notes when the site is built, and adds each as a notebook with its outputs.

MyST-NB executes the code of a page and saves the notebook. Here its figures get the look of the other figures, and the
notebooks are copied into the site with links that work outside of it.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from .derivation import ROOT
from .figures import LOOK

FOLDER = "notes"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)]*)\)")


def install_kernel(folder: Path) -> None:
    """Writes a kernel `python3`, which precedes the one of the same name that comes with IPython."""
    look = {name: value if isinstance(value, (int, float, str, bool)) else repr(value) for name, value in LOOK.items()}
    options = {
        "figure_formats": {"svg"},
        "rc": {**look, "figure.figsize": "8.4, 2.8", "figure.facecolor": "none", "axes.facecolor": "none"},
    }
    arguments = ["--log-level=ERROR", *(f"--InlineBackend.{name}={value!r}" for name, value in options.items())]
    command = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}", *arguments]
    kernel = folder / "kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    specification = {
        "argv": command,
        "display_name": "Python 3",
        "language": "python",
        "env": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    }
    kernel.write_text(json.dumps(specification))
    os.environ["JUPYTER_PATH"] = str(folder)


def link_notebook(app: Sphinx, doctree: nodes.document) -> None:
    """Adds a link to the notebook below the title of a note."""
    folder, _, name = app.env.docname.rpartition("/")
    if folder == FOLDER and name not in ("index", "table"):
        link = f'<a href="{name}.ipynb" download>Download this page as a notebook</a>'
        title = next(iter(doctree.findall(nodes.title)))
        title.parent.insert(title.parent.index(title) + 1, nodes.raw("", f"<p>{link}</p>", format="html"))


def copy_notebooks(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for executed in (Path(app.outdir).parent / "jupyter_execute" / FOLDER).glob("*.ipynb"):
        notebook = json.loads(executed.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = LINK.sub(outside, "".join(cell["source"]))
        (Path(app.outdir) / FOLDER / executed.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False))


def outside(link: re.Match[str]) -> str:
    """A link between notes leads to the other notebook. Of a link to the reference only the text is left."""
    text, target = link.groups()
    if re.fullmatch(r"[\w-]+\.md", target):
        return f"[{text}]({target.replace('.md', '.ipynb')})"
    return link[0] if target.startswith("https:") else text


def setup(app: Sphinx) -> dict[str, Any]:
    logging.getLogger("traitlets").setLevel(logging.WARNING)  # it announces every notebook
    install_kernel(Path(app.doctreedir) / "jupyter")
    app.connect("doctree-read", link_notebook)
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
