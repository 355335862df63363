"""The Sphinx site of `make docs`. A reference page combines docstrings, plots and the derivation from a header."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sphinx.application import Sphinx

import torchnotes
from docs import pages

project = "torchnotes"
release = torchnotes.__version__
html_title = f"torchnotes {release}"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": False}
extensions = [
    "sphinx.ext.autodoc",
    "myst_parser",
    "docs.derivation",
    "docs.docstrings",
    "sphinx.ext.napoleon",
    "docs.mathml",
]
napoleon_custom_sections = [("Shape", "returns_style")]
myst_heading_anchors = 3
exclude_patterns = ["*.inc"]
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_use_unqualified_type_names = True
smartquotes = False
suppress_warnings = ["myst.header"]  # the documents are also read outside of the site


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir) / pages.FOLDER))
