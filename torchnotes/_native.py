"""The only loader of native code: the schemas (_C) and the kernel library for this processor (_cpu_*).

Its ImportErrors bear the name of the package, for which python -m torchnotes shows the message without a traceback.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

CURE = "Build it again with this torch: pip install --no-build-isolation --force-reinstall --no-deps <torchnotes>"
OVERRIDE = os.environ.get("TORCHNOTES_KERNELS")


def _short(version: str) -> tuple[str, ...]:
    """The part of a torch version within which compiled code is interchangeable."""
    return tuple(version.split(".")[:2])


def _check_built_for() -> None:
    """Says plainly what would otherwise be an undefined symbol or a missing module."""
    try:
        built = importlib.import_module("torchnotes._built")
    except ModuleNotFoundError:
        return  # loading _C says that nothing is built
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (_short(built.TORCH), built.PYTHON) != (_short(torch.__version__), python):
        raise ImportError(
            f"torchnotes was built for torch {built.TORCH} and Python {built.PYTHON}, "
            f"but this is torch {torch.__version__} and Python {python}. Install what it was built for, or rebuild it. "
            f"{CURE}",
            name=__package__,
        )


def _load_schemas() -> ModuleType:
    try:
        return importlib.import_module("torchnotes._C")
    except ImportError as error:
        raise ImportError(
            f"torchnotes: its native module _C is missing or cannot be loaded ({error}). {CURE}", name=__package__
        ) from error


def _kernel_library() -> Path:
    """The library for the instruction set that torch uses here (ATEN_CPU_CAPABILITY lowers it), or the one that
    TORCHNOTES_KERNELS names: a build of the same operators to be tried in its place."""
    if OVERRIDE:
        return Path(OVERRIDE)
    capability = torch.backends.cpu.get_cpu_capability().lower()
    name = capability if capability in _C.instruction_sets.split() else "default"
    core = Path(str(_C.__file__))
    return core.with_name(core.name.replace("_C", f"_cpu_{name}", 1))


def _load_kernels(library: Path) -> None:
    what = f"torchnotes: the kernel library {library}"
    cure = "The variable TORCHNOTES_KERNELS names it: name another one, or unset it" if OVERRIDE else CURE
    if not library.exists():
        raise ImportError(f"{what} is missing. {cure}", name=__package__)
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(f"{what} cannot be loaded ({error}). {cure}", name=__package__) from error


_check_built_for()
_C = _load_schemas()
LIBRARY = _kernel_library()
_load_kernels(LIBRARY)

DIRECT, GRAPH, TRANSFORM = _C.DIRECT, _C.GRAPH, _C.TRANSFORM
call_mode, check_in_place = _C.call_mode, _C.check_in_place
dense_float, fits_layer = _C.dense_float, _C.fits_layer
batch_of = _C.batch_of
is_recorded, is_watched, on_one_device = _C.is_recorded, _C.is_watched, _C.on_one_device
gather, call_on, update = _C.gather, _C.call_on, _C.update


def build_info() -> str:
    """How this torchnotes was built and which kernels it runs, one fact per line."""
    cuda = f"yes, architectures {_C.cuda_architectures}" if _C.cuda else "no"
    return "\n".join(
        (
            f"torchnotes        {_C.version}",
            f"built for torch   {_C.torch_version}",
            f"compiler          {_C.compiler}",
            f"instruction sets  {_C.instruction_sets}",
            f"loaded kernels    {LIBRARY.name}",
            f"CUDA              {cuda}",
        )
    )
