"""The Sphinx site of `make docs`. A page of the reference has docstrings, plots, the derivation and measurements."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from typing import Any

import torch
from sphinx.application import Sphinx

import torchnotes
from docs.measurements import MEASURED
from torchnotes import functional, init, nn, optim
from torchnotes.ops.activations import ACTIVATIONS

project = "torchnotes"
release = torchnotes.__version__
html_title = f"torchnotes {release}"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": False}
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_domain_indices = False
html_show_copyright = False
html_math_renderer = "mathml"
extensions = [
    *(f"sphinx.ext.{name}" for name in ("autodoc", "autosummary", "doctest", "intersphinx", "napoleon", "viewcode")),
    "myst_nb",
    *("docs.derivation", "docs.mathml", "docs.measurements", "docs.notebooks", "docs.plots"),
]
templates_path = ["templates"]
exclude_patterns = ["templates"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120  # seconds for a cell, on a busy machine
nb_merge_streams = True
suppress_warnings = ["myst.header"]  # the documents are also read outside of the site
smartquotes_action = "D"  # only dashes: quotes occur in code, too

autosummary_context = {
    "measured": MEASURED,
    "activations": {f"functional.{name}": [f"nn.{info.module}"] for name, info in ACTIVATIONS.items()},
}
add_module_names = False
add_function_parentheses = False
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_display_short_literal_types = True
nitpick_ignore_regex = [("py:class", "'.*'")]  # the values of a Literal
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shape", "returns_style")]
doctest_global_setup = """
from typing import Any

import torch
from sphinx.application import Sphinx
import torchnotes
from torchnotes import convert, functional as F, init, nn, optim, revert, signal
"""

# Text files in Sphinx's format, because builds have no network. torch.inv lacks the names that we share with torch.
SHARED = ((torch.nn, nn), (torch.nn.functional, functional), (torch.nn.init, init), (torch.optim, optim))
inventory = Path(__file__).parents[1] / "build/torch.inv"
inventory.parent.mkdir(exist_ok=True)
inventory.write_text(
    Path(__file__).with_name("torch.inv").read_text()
    + "".join(
        f"{(full := f'{theirs.__name__}.{name}')} {kind} generated/{full}.html\n"
        for theirs, ours in SHARED
        for name, x in vars(ours).items()
        if hasattr(theirs, name) and (kind := "class" if isinstance(x, type) else "function")
    )
)
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable", str(inventory)),
    "python": ("https://docs.python.org/3", "python.inv"),
}


def without_arguments(app: Sphinx, what: str, name: str, object: Any, options: Any, shown: str, returns: str) -> Any:
    """Classes that inherit the constructor of torch.nn.Module, which accepts no arguments."""
    return ("()", "") if what == "class" and shown and shown.startswith("(*args") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", without_arguments)
