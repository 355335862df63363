"""Generates pages when the site is built: one per operation and optimizer, and the documents outside of docs/.

Operations and optimizers are found by the names of their files. The table below gives their group and order, and what
their page documents in addition to the function or the optimizer of that name.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torchnotes

from . import chance, curves, ways  # noqa: F401 # the other two register plots for curves.draw

ROOT = Path(torchnotes.__file__).parents[1]
FOLDER = "reference"
_BATCH_NORMS = [f"nn.{lazy}BatchNorm{n}d" for lazy in ("", "Lazy") for n in (1, 2, 3)]
GROUPS: dict[str, dict[str, list[str]]] = {
    "Activations": {
        "sigmoid": ["nn.Sigmoid"],
        "tanh": ["nn.Tanh"],
        "relu": ["nn.ReLU"],
        "leaky_relu": ["nn.LeakyReLU"],
        "softmax": ["nn.Softmax"],
        "log_softmax": ["nn.LogSoftmax"],
    },
    "Layers and normalization": {
        "linear": ["nn.Linear", "nn.MLP"],
        "batch_norm": [*_BATCH_NORMS, "nn.utils.fuse_batch_norm"],
        "sync_batch_norm": ["nn.SyncBatchNorm"],
    },
    "Losses": {
        "mse_loss": ["nn.MSELoss"],
        "binary_cross_entropy_with_logits": ["nn.BCEWithLogitsLoss"],
        "cross_entropy": ["nn.CrossEntropyLoss"],
        "linear_cross_entropy": ["nn.LinearCrossEntropyLoss"],
        "pinball_loss": ["nn.PinballLoss"],
    },
    "Dropout and random numbers": {
        "dropout": ["nn.Dropout"],
        "gaussian_dropout": [
            "functional.gaussian_dropout_penalty",
            "nn.GaussianDropout",
            "nn.GaussianDropoutLinear",
            "nn.VariationalDropout",
        ],
        "philox": [],
    },
    "Initializers": {
        "init": [
            *(f"init.{name}" for name in ("glorot_uniform_", "glorot_normal_", "he_uniform_", "he_normal_")),
            *(f"init.{name}" for name in ("lecun_uniform_", "lecun_normal_", "default_uniform_", "initialize_")),
        ],
        "uniform": [],
        "normal": [],
        "trunc_normal": [],
    },
    "Optimizers": {
        "sgd": [],
        "rmsprop": [],
        "adam": [],
        "adamw": [],
        "newton": ["optim.newton.Report"],
        "gradient_norm": [],
        "gradient": [],
        "rounding": [],
    },
    "Whole models": {
        "conversion": ["convert", "revert", "conversion.Report", "optim.from_torch", "optim.to_torch"],
        "signal": ["signal.propagation", "signal.Propagation", "signal.Layer"],
    },
}
TITLES = {
    "philox": "Random numbers",
    "init": "Glorot, He, LeCun",
    "gradient": "The gradient of a step",
    "rounding": "Rounding of 16-bit parameters",
    "conversion": "Conversion from torch and back",
    "signal": "How a signal propagates",
}
DERIVATIONS = {"adamw": "csrc/formulas/adam.h", "conversion": None}  # if it is neither in the header nor in the module
DOCUMENTS = {
    "README.md": "readme",
    "NOTES.md": "notes",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "benchmarks/results/README.md": "benchmarks",
}


@dataclass(frozen=True)
class Page:
    stem: str
    derivation: str | None  # the file that contains it
    objects: tuple[str, ...]  # what it documents, by names within torchnotes

    @property
    def title(self) -> str:
        return TITLES.get(self.stem, self.stem)


def stems(package: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "torchnotes" / package).rglob("[a-z]*.py"))


@functools.cache
def groups() -> dict[str, list[Page]]:
    """All pages of the reference, by group. Operations missing from the table form a group of their own."""
    listed = {stem for group in GROUPS.values() for stem in group}
    more: dict[str, list[str]] = {stem: [] for stem in (*stems("ops"), *stems("optim")) if stem not in listed}
    table = GROUPS | ({"More operations": more} if more else {})
    return {group: [_page(stem, beside) for stem, beside in content.items()] for group, content in table.items()}


def _page(stem: str, beside: list[str]) -> Page:
    named = [f"functional.{stem}"] if hasattr(torchnotes.functional, stem) else []
    if stem in stems("ops") and not named:
        named = [f"init.{stem}_"]
    if stem in stems("optim"):
        public = vars(torchnotes.optim).items()
        named = [f"optim.{name}" for name, x in public if getattr(x, "__module__", "") == f"torchnotes.optim.{stem}"]
    return Page(stem, DERIVATIONS[stem] if stem in DERIVATIONS else _source(stem), (*named, *beside))


def _source(stem: str) -> str:
    """The file with the derivation: the header, or else the module."""
    places = f"csrc/formulas/{stem}.h", f"torchnotes/{stem}/__init__.py", f"torchnotes/**/{stem}.py"
    return next(str(path.relative_to(ROOT)) for place in places for path in ROOT.glob(place))


def page_of_header(name: str) -> str | None:
    """The page with the derivation of a header such as philox.h."""
    stem, _, suffix = name.removeprefix("csrc/formulas/").partition(".")
    known = suffix == "h" and any(page.stem == stem for group in groups().values() for page in group)
    return f"{FOLDER}/{stem}" if known else None


def write(folder: Path) -> None:
    """Writes all pages and plots. Unchanged pages are not touched, so that Sphinx does not read them again."""
    folder.mkdir(exist_ok=True)
    texts = dict(_texts(folder))
    for path in folder.iterdir():
        if path.name not in texts and path.suffix != ".svg":
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    contents = []
    for group, pages in groups().items():
        contents += [
            f"```{{toctree}}\n:caption: {group}\n:maxdepth: 1\n",
            *(f"{FOLDER}/{page.stem}" for page in pages),
            "```\n",
        ]
        for page in pages:
            yield f"{page.stem}.md", _reference(page, folder)
    yield "contents.inc", "\n".join(contents)
    yield "introduction.inc", (ROOT / "README.md").read_text().split("\n\n")[1]
    for name, stem in DOCUMENTS.items():
        yield f"{stem}.md", _with_links(ROOT / name)


def _reference(page: Page, folder: Path) -> str:
    parts = [f"# {page.title}"]
    for name in page.objects:
        what = f"autofunction:: torchnotes.{name}"
        if name.split(".")[-1][0].isupper():
            what = f"autoclass:: torchnotes.{name}\n   :members:\n   :exclude-members: builtin_step, cls_to_become"
        parts.append(f"```{{eval-rst}}\n.. {what}\n```")
    picture = curves.draw(page.stem, folder / f"{page.stem}.svg")
    if picture:
        parts += ["## Plots", f"```{{figure}} {page.stem}.svg\n:alt: {picture.alt}\n\n{picture.caption}\n```"]
    if page.derivation:
        parts += ["## Derivation", f"```{{derivation}} {page.derivation}\n```", f"Source: `{page.derivation}`."]
    return "\n\n".join(parts) + "\n"


def _with_links(document: Path) -> str:
    """A document whose links lead to pages and pictures of the site. A link to anything else becomes its path."""

    def link(match: re.Match) -> str:
        picture, label, target, place = match.groups()
        path = (document.parent / target).resolve()
        name = str(path.relative_to(ROOT))
        if picture:
            return f"![{label}](../../{name})" if path.exists() else label
        if name.startswith("docs/") and path.suffix == ".md":
            return f"[{label}](../{name.removeprefix('docs/')}{place or ''})"
        page = page_of_header(name)
        stem = DOCUMENTS.get(name) or (page and page.removeprefix(f"{FOLDER}/"))
        return f"[{label}]({stem}.md{place or ''})" if stem else f"`{name}`"

    def header(match: re.Match) -> str:
        return f"[`{match[1]}.h`]({match[1]}.md)" if page_of_header(f"{match[1]}.h") else match[0]

    text = re.sub(r"(!?)\[([^\]]+)\]\((?!https?:)([^)#]+)(#[^)]*)?\)", link, document.read_text())
    return re.sub(r"`(?:csrc/formulas/)?(\w+)\.h`", header, text)
