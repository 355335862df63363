"""setup.py in a small project: what it prints, and what it compiles again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from native_build import ROOT, SETUP
from torch.utils import cpp_extension

SOURCES = {
    "csrc/schemas.cpp": "",
    "csrc/python/module.cpp": '#include "build_info.h"\nconst char* version() { return TORCHNOTES_VERSION; }\n',
    "csrc/python/node.cpp": "",
    "csrc/ops/relu.cpp": '#include "kernels/relu.h"\n',
    "csrc/ops/tanh.cpp": "",
    "csrc/kernels/relu.h": "#pragma once\nint relu(int);\n",
    "csrc/kernels/relu.cpp": '#include "kernels/relu.h"\nint relu(int x) { return x > 0 ? x : 0; }\n',
    "csrc/kernels/tanh.cpp": "",
    "csrc/loops/cpu/sums.cpp": "",
    "torchnotes/__init__.py": '__version__ = "1.2.3"\n',
    "benchmarks/__init__.py": "",
}
CORE = {"_C headers", "_C python", "_C schemas", "_C relu", "_C tanh", "_C link"}
KERNELS = {"default headers", "default relu", "default tanh", "default sums", "default link"}


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Precompiles headers that do not take seconds.
        setup = re.sub(r"_HEADERS = \(.*\)", '_HEADERS = ("cstdint",)', (ROOT / "setup.py").read_text())
        assert setup.count("cstdint") == 2
        for name, text in {**SOURCES, "setup.py": setup}.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def build(self, **environment: str) -> subprocess.CompletedProcess:
        unset = ("CPPFLAGS", "CFLAGS", "CXXFLAGS", "LDFLAGS", "NINJA_STATUS", "TORCHNOTES_SANITIZE")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        chosen = {"TORCHNOTES_INSTRUCTION_SETS": "default", "TORCHNOTES_CUDA": "0", **environment}
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**inherited, **chosen},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def compiled(self, **environment: str) -> set[str]:
        """What a build names in its lines, one for each command."""
        done = self.build(**environment)
        assert done.returncode == 0, done.stdout
        lines = [re.fullmatch(r"\[\d+/(\d+)\] \d\d:\d\d (\w+ \w+)", line) for line in done.stdout.splitlines()]
        assert all(lines), done.stdout
        names = {line[2] for line in lines}
        assert all(int(line[1]) == len(lines) == len(names) for line in lines), done.stdout
        return names


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "a path with spaces")


def test_a_line_for_each_file_and_nothing_when_up_to_date(project):
    assert project.compiled() == CORE | KERNELS
    libraries = {path.name.split(".")[0] for path in (project.folder / "torchnotes").glob("*.so")}
    assert libraries == {"_C", "_cpu_default"}
    assert (project.folder / "torchnotes/_built.py").exists()
    assert project.build().stdout == ""


def test_only_what_changed_is_compiled_again(project):
    project.compiled()
    project.write("csrc/kernels/relu.h", "int relu(int);\n")
    relinked = {"_C link", "default link"}
    assert project.compiled() == {"_C relu", "default relu"} | relinked
    (project.folder / "csrc/kernels/tanh.cpp").unlink()
    assert project.compiled() == {"default link"}
    project.write("csrc/python/node.cpp", "int node() { return 1; }\n")
    assert project.compiled() == {"_C python", "_C link"}
    flag = {"CXXFLAGS": "-DFLAG='a b'"}
    every = (CORE | KERNELS) - {"default tanh"}
    assert project.compiled(**flag) == every
    (versions,) = project.folder.glob("build/*/versions")
    assert versions.read_text().startswith(SETUP["torch"].__version__)
    versions.write_text("another torch or compiler")
    assert project.compiled(**flag) == every


def test_a_failure_shows_the_command_and_the_message(project):
    project.write("csrc/kernels/relu.cpp", "static int unused() { return 1; }\n")
    project.write("csrc/kernels/tanh.cpp", "#error a mistake\n")
    done = project.build(MAX_JOBS="1")
    assert done.returncode != 0
    assert "FAILED" in done.stdout
    assert re.search(r"^\S*c\+\+.* -O3 .*-c csrc/kernels/tanh\.cpp -o ", done.stdout, re.M), done.stdout
    assert "csrc/kernels/tanh.cpp:1:2: error: #error a mistake" in done.stdout
    assert "Traceback" not in done.stdout
    assert "[-Wunused-function]" in done.stdout  # warnings of other files stay visible


def test_cuda_builds_compile_every_kernel_with_nvcc(tmp_path, monkeypatch):
    """Needs no nvcc, because only the commands are written."""
    environment = {"TORCHNOTES_CUDA": "1", "PYTORCH_NVCC": "/cuda/bin/nvcc", "TORCH_CUDA_ARCH_LIST": "8.0"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/cuda")
    names = ["_C", *(f"_cpu_{name}" for name in SETUP["INSTRUCTION_SETS"])]
    text = "".join(SETUP["graph"](tmp_path, {f"torchnotes.{name}": tmp_path / name for name in names}).statements)
    (link,) = re.findall(rf"^build {tmp_path}/_C: link (.*) \|", text, re.M)
    kernels = [path.stem for path in (ROOT / "csrc").glob("kernels/*.cpp")]
    assert kernels
    for name in kernels:
        (command,) = re.findall(rf"^build \S*/{name}\.cu\.o: compile .*\n.*\n  tool = (.*)", text, re.M)
        assert command.startswith("/cuda/bin/nvcc ")
        assert "code=sm_80" in command
        assert f"/{name}.cu.o" in link
