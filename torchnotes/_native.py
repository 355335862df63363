"""Loads the native code: the schemas (_C) and the kernel library for this processor (_cpu_*).

Its ImportErrors have the package's name, so that python -m torchnotes can show the message without a traceback.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

CURE = "Rebuild it with this torch: pip install --no-build-isolation --force-reinstall --no-deps <torchnotes>"
OVERRIDE = os.environ.get("TORCHNOTES_KERNELS")


def _short(version: str) -> tuple[str, ...]:
    """The part of a torch version that determines binary compatibility."""
    return tuple(version.split(".")[:2])


def _check_built_for() -> None:
    """Raises a clear error instead of an undefined symbol or a missing module."""
    try:
        built = importlib.import_module("torchnotes._built")
    except ModuleNotFoundError:
        return  # nothing is built; loading _C says so
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
            f"torchnotes: the native module _C is missing or cannot be loaded ({error}). {CURE}", name=__package__
        ) from error


def _kernel_libraries() -> list[Path]:
    """The libraries for the instruction set that torch uses here (ATEN_CPU_CAPABILITY can lower it), or the one that
    TORCHNOTES_KERNELS names instead. That for AVX-512 complements that for AVX2."""
    if OVERRIDE:
        return [Path(OVERRIDE)]
    capability = torch.backends.cpu.get_cpu_capability().lower()
    name = capability if capability in _C.instruction_sets.split() else "default"
    core = Path(str(_C.__file__))
    names = ["avx2", "avx512"] if name == "avx512" else [name]
    return [core.with_name(core.name.replace("_C", f"_cpu_{name}", 1)) for name in names]


def _load_kernels(library: Path) -> None:
    what = f"torchnotes: the kernel library {library}"
    cure = "It was chosen by TORCHNOTES_KERNELS: change or unset this variable" if OVERRIDE else CURE
    if not library.exists():
        raise ImportError(f"{what} is missing. {cure}", name=__package__)
    try:
        _C.load_kernels(str(library))
    except RuntimeError as error:
        raise ImportError(f"{what} cannot be loaded ({error}). {cure}", name=__package__) from error


_check_built_for()
_C = _load_schemas()
LIBRARIES = _kernel_libraries()
for library in LIBRARIES:
    _load_kernels(library)

DIRECT, GRAPH, TRANSFORM = _C.DIRECT, _C.GRAPH, _C.TRANSFORM
call_mode, check_in_place = _C.call_mode, _C.check_in_place
dense_float, fits_layer = _C.dense_float, _C.fits_layer
batch_of = _C.batch_of
is_recorded, is_watched, on_one_device = _C.is_recorded, _C.is_watched, _C.on_one_device
collect_parameters, update_parameters = _C.collect_parameters, _C.update_parameters
norm_of_gradients = _C.norm_of_gradients


def build_info() -> str:
    """Describes how torchnotes was built and which kernels it uses, one fact per line.

    Returns:
        A text of several lines.

    Example:
        >>> print(torchnotes.build_info())
        torchnotes        ...
        built for torch   ...
        compiler          ...
        instruction sets  ...
        loaded kernels    ...
        CUDA              ...
    """
    cuda = f"yes, architectures {_C.cuda_architectures}" if _C.cuda else "no"
    return "\n".join(
        (
            f"torchnotes        {_C.version}",
            f"built for torch   {_C.torch_version}",
            f"compiler          {_C.compiler}",
            f"instruction sets  {_C.instruction_sets}",
            f"loaded kernels    {', '.join(library.name for library in LIBRARIES)}",
            f"CUDA              {cuda}",
        )
    )
