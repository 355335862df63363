"""Self-contained HTML pages: they need no network, fit a phone, and follow the reader's light or dark theme."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#222, #ddd); background: light-dark(#fff, #16181b); overflow-wrap: anywhere }
h1 { font-size: clamp(1.4rem, 5vw, 2rem); line-height: 1.25 }
.scroll, pre { overflow-x: auto } pre { background: light-dark(#f5f5f5, #24272b); padding: .8rem }
table { border-collapse: collapse; white-space: nowrap } figure { margin: 1.5rem 0 } img { max-width: 100% }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid light-dark(#ddd, #444) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.panels { display: flex; flex-wrap: wrap; gap: 1rem } .panels img { flex: 0 1 28rem; min-width: min(20rem, 100%) }
figcaption, .quiet { color: light-dark(#555, #aaa) } .warning { color: light-dark(#a33, #f99) }
"""
# Notebooks have a style and a theme of their own: only the layout differs from them.
SNIPPET_STYLE = """
.torchnotes .scroll { overflow-x: auto; max-width: 100% } .torchnotes table { white-space: nowrap; width: auto }
.torchnotes th:first-child, .torchnotes td:first-child { text-align: left }
.torchnotes th, .torchnotes td { text-align: right }
"""
GREY = "#7d7d7d"  # readable on white and on black
LOOK: Any = {  # for matplotlib.rc_context: figures without a background, for both themes
    "savefig.transparent": True,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), GREY),
}


def page(title: str, parts: Iterable[str], headline: str = "") -> str:
    """A document with a headline, by default its title, and parts, which are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(headline or title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def snippet(parts: Iterable[str]) -> str:
    """What ``_repr_html_`` returns: parts that fit into a notebook, in its colors."""
    return f'<div class="torchnotes"><style>{SNIPPET_STYLE}</style>{"".join(parts)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide. Cells are plain text; the first column holds names."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll" tabindex="0"><table>{line("th", header)}{body}</table></div>'


def paragraph(text: str, kind: str = "") -> str:
    """Plain text, of one of the classes in STYLE."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'


def figure(images: str | Sequence[str], caption: str) -> str:
    """An image, or several, which are next to each other where there is room."""
    panels = images if isinstance(images, str) else f'<div class="panels">{"".join(images)}</div>'
    return f"<figure>{panels}<figcaption>{escape(caption)}</figcaption></figure>"


def image(drawing: Any, alt: str) -> str:
    """An <img> of a matplotlib Figure, with a description for readers who do not see it."""
    file = io.BytesIO()
    drawing.savefig(file, format="svg")
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'
