"""The exact commands of a build, and the environment each gets: pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provision.build.interpreter import Python
from provision.build.spec import BuildSpec
from provision.build.state import EPOCH, MAPPED, NVCC_FLAGS, PREFIX_MAP, STRIP
from provision.build.toolkit import Toolkit
from provision.process import Command

# What a compilation takes over from the user's environment. Not CFLAGS, CPATH and their like:
# they would change the wheel without a trace in its key.
_COMPILE_INHERITS = ("HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
_COMPILE_INHERITS_PREFIXES = ("CCACHE_", "SCCACHE_")

# What pip does not get from it: each would put files elsewhere, or bring others in.
_PIP_WITHOUT = frozenset(
    [
        "PIP_DRY_RUN",
        "PIP_NO_DEPS",
        "PIP_PREFIX",
        "PIP_PYTHON",
        "PIP_QUIET",
        "PIP_REPORT",
        "PIP_ROOT",
        "PIP_TARGET",
        "PIP_USER",
        "PYTHONHOME",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "__PYVENV_LAUNCHER__",
    ]
)


def python_of(environment: Path) -> str:
    """The interpreter of a virtual environment."""
    return str(environment / "bin" / "python")


def site_packages(environment: Path, python: Python) -> Path:
    """The site-packages folder of a virtual environment."""
    name = f"python{python.version.major}.{python.version.minor}"
    return environment / "lib" / name / "site-packages"


def torch_requirement(spec: BuildSpec) -> str:
    """What pip is asked for: the release, or the very build of it that the spec names.

    A release matches each of its builds, and pip takes the one with the greatest local part; so
    for GPUs the build without CUDA is ruled out by name.
    https://packaging.python.org/en/latest/specifications/version-specifiers/#local-version-identifiers
    """
    wanted = f"torch=={spec.torch}"
    if spec.accelerator == "cuda" and spec.torch.local is None:
        return f"{wanted},!={spec.torch}+cpu"
    return wanted


def environment_commands(
    spec: BuildSpec, python: Python, path: Path, lock: Path, pip: Mapping[str, str]
) -> tuple[Command, ...]:
    """Commands that make the build environment at ``path``: create, locked tools, torch.

    What pip took is written to ``locked.json`` and ``torch.json`` in it; the last one reads
    ``constraints.txt``, so that torch can't change what is locked.
    """
    # No bytecode: making it takes two thirds of the time, and a build imports few of the files.
    install = (python_of(path), "-m", "pip", "install", "--no-input", "--no-compile")
    return (
        Command(argv=(python.executable, "-m", "venv", str(path)), environ=pip),
        Command(
            argv=(
                *install,
                *("--require-hashes", "--only-binary", ":all:"),
                *("--report", str(path / "locked.json"), "-r", str(lock)),
            ),
            environ=pip,
        ),
        Command(
            argv=(
                *install,
                *("--progress-bar", "raw", "--report", str(path / "torch.json")),
                *("-c", str(path / "constraints.txt"), torch_requirement(spec)),
            ),
            environ=pip,
        ),
    )


def fetch_command(environment: Path, work: Path, pip: Mapping[str, str]) -> Command:
    """Bring the release that ``work/source.txt`` names, hash included, to ``work/download``."""
    # Without isolation: pip runs setup.py for the metadata even with --no-deps, and would bring
    # an unlocked setuptools for that.
    return Command(
        argv=(
            *(python_of(environment), "-m", "pip", "download", "--no-input", "--require-hashes"),
            *("--no-deps", "--no-binary", "deepspeed", "--no-build-isolation"),
            *("--progress-bar", "raw", "--dest", str(work / "download")),
            *("-r", str(work / "source.txt")),
        ),
        environ=pip,
    )


def toolkit_command(environment: Path, toolkit: Toolkit, pip: Mapping[str, str]) -> Command:
    """Bring a toolkit's packages into ``<its folder>.new``, beside where they will be."""
    folder = toolkit.folder
    return Command(
        argv=(
            *(python_of(environment), "-m", "pip", "install", "--no-input", "--require-hashes"),
            *("--only-binary", ":all:", "--no-deps", "--progress-bar", "raw"),
            *("--target", str(folder.with_name(f"{folder.name}.new")), "-r", str(toolkit.lock)),
        ),
        environ=pip,
    )


def pip_environ(environ: Mapping[str, str], accelerator: str) -> Mapping[str, str]:
    """The user's variables for pip (index, proxies, certificates), less what leads it astray."""
    kept = {name: value for name, value in environ.items() if name not in _PIP_WITHOUT}
    return {
        **kept,
        "DS_ACCELERATOR": accelerator,
        "LC_ALL": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def compile_environ(
    spec: BuildSpec,
    environ: Mapping[str, str],
    python: Python,
    environment: Path,
    work: Path,
    string: str,
    jobs: int,
) -> Mapping[str, str]:
    """The compilation's variables; the same on every machine but for paths and ``jobs``.

    Source of the names: setup.py and op_builder/builder.py of DeepSpeed;
    torch/utils/cpp_extension.py (CXX, MAX_JOBS); https://reproducible-builds.org/specs/ .
    """
    inherited = {
        name: value
        for name, value in environ.items()
        if name in _COMPILE_INHERITS or name.startswith(_COMPILE_INHERITS_PREFIXES)
    }
    own_paths = (
        work / "source",
        site_packages(environment, python),
        Path(python.header).parent,
    )
    return {
        **inherited,
        "PATH": f"{environment / 'bin'}:{environ.get('PATH', '/usr/bin:/bin')}",
        "VIRTUAL_ENV": str(environment),
        "LC_ALL": "C.UTF-8",  # failure.py reads English
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(work / "python"),  # in_setup.py
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "CXX": str(work / "bin" / "g++"),
        "CFLAGS": " ".join(
            f"{PREFIX_MAP}={path}={name}" for path, name in zip(own_paths, MAPPED, strict=True)
        ),
        "LDFLAGS": STRIP,
        "CCACHE_COMPILERCHECK": "content",  # its compiler is our wrapper
        "MAX_JOBS": str(jobs),
        # Without ninja a build is serial and MAX_JOBS is ignored; setup.py's own -j races.
        "DS_ENABLE_NINJA": "1",
        "DS_ACCELERATOR": spec.accelerator,
        "DS_BUILD_STRING": string,
        "DS_BUILD_OPS": "0",
        **{op.flag: "1" for op in spec.ops},
    }


def cuda_environ(spec: BuildSpec, compiling: Mapping[str, str], work: Path) -> Mapping[str, str]:
    """What a compilation of GPU code has on top of ``compiling`` (of compile_environ).

    Source: https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/#nvcc-environment-variables
    (NVCC_APPEND_FLAGS, and -ccbin, without which nvcc starts whichever g++ is first on PATH);
    op_builder/builder.py (DS_NVCC_THREADS, TORCH_CUDA_ARCH_LIST).
    """
    maps = (f"-Xcompiler={flag}" for flag in compiling["CFLAGS"].split())
    return {
        "CUDA_HOME": str(work / "cuda"),
        "TORCH_CUDA_ARCH_LIST": ";".join(spec.archs),
        # Two architectures of a file at once; each takes far less memory than the host's compiler.
        "DS_NVCC_THREADS": str(min(2, len(spec.archs))),
        "NVCC_APPEND_FLAGS": " ".join((*NVCC_FLAGS, "-ccbin", compiling["CXX"], *maps)),
    }
