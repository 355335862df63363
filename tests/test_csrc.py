"""The C++ and CUDA code: its folders are layers, and every header compiles on its own."""

import re
import sysconfig
from pathlib import Path

from cuda_on_cpu.build import FLAGS
from native_build import COMPILER, INSTRUCTION_SET, ROOT, SETUP, Build

CSRC = ROOT / "csrc"
FILES = [path for path in sorted(CSRC.rglob("*")) if path.suffix in (".h", ".cuh", ".cpp", ".cu")]
# Each layer may include those before it. Folders of one layer do not include each other.
LAYERS = (("formulas",), ("loops",), ("kernels",), ("tensors",), ("ops",), ("python",), (".",))
TENSORS = re.compile(
    r"torch/|ATen/(ATen|Functions|TensorIterator|TensorOperators|ops/|core/Tensor)|c10/core/TensorImpl"
)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.MULTILINE)


def layer(path: Path) -> str:
    return path.relative_to(CSRC).parts[0] if path.parent != CSRC else "."


def test_every_header_compiles_on_its_own():
    build = Build("headers")
    command = [*COMPILER, "-O0", "-w", "-isystem", sysconfig.get_path("include")]
    for header in (path for path in FILES if path.suffix in (".h", ".cuh")):
        name = str(header.relative_to(CSRC))
        # Twice, because a header must also be guarded.
        source = build.ninja.folder / "sources" / f"{name.replace('/', '_')}.cpp"
        SETUP["write_includes"](source, [name, name])
        # Formulas as scalars, so that the compiler does not parse torch's SIMD vectors for each.
        as_cuda = header.suffix == ".cuh" or layer(header) == "formulas"
        build.compile([*command, *(FLAGS if as_cuda else SETUP["cpu_flags"](INSTRUCTION_SET))], source)
    build.run()


def test_includes_point_downwards():
    height = {name: height for height, names in enumerate(LAYERS) for name in names}
    assert {layer(path) for path in FILES} <= height.keys()
    included = [(path, CSRC / name) for path in FILES for name in includes(path) if (CSRC / name).exists()]
    assert included
    upwards = [
        f"{path.relative_to(CSRC)} includes {other.relative_to(CSRC)}"
        for path, other in included
        if layer(path) != layer(other) and height[layer(path)] <= height[layer(other)]
    ]
    assert not upwards


def test_includes_are_relative_to_csrc():
    relative = [(path, name) for path in FILES for name in includes(path) if (path.parent / name).exists()]
    assert not [(path.name, name) for path, name in relative if not (CSRC / name).exists()]


def test_few_files_are_outside_the_folders():
    assert len([path for path in CSRC.iterdir() if path.is_file()]) <= 3


def test_no_source_only_includes_another():
    code = {path: re.sub(r"//.*|^\s*#.*", "", path.read_text(), flags=re.MULTILINE) for path in FILES}
    assert not [path for path in FILES if path.suffix in (".cpp", ".cu") and not code[path].strip()]


def test_kernels_know_no_tensors():
    kernels = [path for path in FILES if layer(path) in ("kernels", "loops", "formulas")]
    assert not [(path.name, name) for path in kernels for name in includes(path) if TENSORS.match(name)]


def test_kernels_know_nothing_about_tests():
    assert not [path for path in FILES if re.search("cuda_on_cpu", path.read_text(), re.IGNORECASE)]
