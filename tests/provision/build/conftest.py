"""Values that the tests of the build start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.cache import Layout
from provision.build.environment import Environment
from provision.build.interpreter import Python
from provision.build.source import Source
from provision.build.spec import BuildSpec, parse_build_spec
from provision.build.state import BuildState
from provision.build.toolchain import GIB, CudaFacts, Toolchain
from provision.build.toolkit import Toolkit
from provision.compat import NVCC_ARCHS
from provision.wheel.isa import LEVELS
from provision.wheel.manifest import Distribution


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    return parse_build_spec(accelerator="cpu", out=str(tmp_path / "wheels"))


@pytest.fixture
def make_toolchain():
    """A machine that can build; keywords replace facts."""

    def make(**changes) -> Toolchain:
        python = Python(
            executable="/usr/bin/python3.11",
            version=Version("3.11.7"),
            implementation="cpython",
            header="/usr/include/python3.11/Python.h",
            has_header=True,
            has_venv=True,
        )
        values = {
            "machine": "x86_64",
            "asked_python": "python3.11",
            "python": python,
            "asked_compiler": "g++",
            "compiler": "/usr/bin/g++",
            "compiler_version": Version("12.2.0"),
            "cores": 8,
            "memory": 64 * GIB,
            "disk": 100 * GIB,
            "cpu_flags": LEVELS["x86-64-v3"].flags,
            "headers": frozenset(),
            "objdump": "/usr/bin/objdump",
        }
        return Toolchain(**{**values, **changes})

    return make


@pytest.fixture
def make_cuda():
    """torch of CUDA 13.0 and a toolkit that fits it; keywords replace facts."""

    def make(**changes) -> CudaFacts:
        here = Toolkit(
            home=Path("/usr/local/cuda"),
            version="13.0.88",
            archs=NVCC_ARCHS["13.0"],
            gcc=15,
            parts={"nvcc": "13.0.88", "crt": "ab"},
        )
        values = {
            "torch_cuda": "13.0",
            "torch_read": True,
            "toolkits": (here,),
            "toolkit": here,
            "missing": (),
        }
        return CudaFacts(**{**values, **changes})

    return make


@pytest.fixture
def cuda_spec(tmp_path: Path) -> BuildSpec:
    return parse_build_spec(arch="8.0;9.0+PTX", out=str(tmp_path / "wheels"))


@pytest.fixture
def environment() -> Environment:
    return Environment(
        path=Path("/cache/environments/one"),
        torch="2.13.0+cpu",
        torch_cuda=None,
        torch_dist="2.13.0+cpu",
        requires=(Distribution(name="torch", version="2.13.0+cpu", sha256="ef" * 32),),
    )


@pytest.fixture
def make_state():
    """The state of an empty cache in /cache; keywords replace values."""

    def make(**changes) -> BuildState:
        values = {
            "layout": Layout(root=Path("/cache")),
            "source": Source(name="deepspeed-0.19.8.tar.gz", version="0.19.8", sha256="cd" * 32),
            "lock": Path("/zerofleet/locks/build.lock"),
            "lock_sha256": "12" * 32,
            "environ": {"HOME": "/home/me", "PATH": "/usr/bin:/bin"},
        }
        return BuildState(**{**values, **changes})

    return make
