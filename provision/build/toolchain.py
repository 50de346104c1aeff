"""What this machine can build with: read once. compare.py judges it."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from invoke.context import Context
from packaging.version import InvalidVersion, Version

from provision.build.cache import Layout
from provision.build.environment import (
    LOCK,
    environment_path,
    expected_torch_cuda,
    read_environment,
)
from provision.build.interpreter import PYTHON_FACTS, Python, parse_python
from provision.build.spec import BuildSpec
from provision.build.toolkit import Toolkit, choose_toolkit, missing, read_toolkits, read_view
from provision.wheel import isa
from provision.wheel.manifest import sha256_of

GIB = 2**30
#: What one compiler process takes at worst, in bytes: a file that includes all of torch's headers
#: with -O3. Too many at once and the kernel kills one (deepspeedai/DeepSpeed#5677).
COMPILER_BYTES = 2 * GIB
#: The name of this machine in findings and plans.
HERE = "this machine"


@dataclass(frozen=True, kw_only=True)
class CudaFacts:
    """torch's CUDA, and the toolkits there are for it.

    Attributes:
        torch_cuda: torch's CUDA version, such as "13.0"; "" when unknown.
        torch_read: it was read from the torch in the build environment; else it is what the
            release is known to bring, and is read once that torch is there.
        toolkits: every toolkit there is, in the order they are taken in.
        toolkit: the one to build with; None when none is of the kind asked for and fits torch.
        missing: of what a build needs, the parts that neither the toolkit nor torch's own packages
            hold; known once both are there.
    """

    torch_cuda: str
    torch_read: bool
    toolkits: tuple[Toolkit, ...]
    toolkit: Toolkit | None
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What is there. None or "" means: could not be read, or is not there.

    Attributes:
        asked_python: the interpreter as asked for.
        compiler: path of the C++ compiler (``$CXX`` or g++).
        cores: that this process may use.
        memory: bytes that a build may take now.
        disk: free bytes where the cache lies.
        cpu_flags: of /proc/cpuinfo.
        headers: of the ones that the asked ops need, those that the compiler finds.
        objdump: its path.
        cuda: what GPU code is compiled with; None for the cpu accelerator.
    """

    machine: str
    asked_python: str
    python: Python | None
    asked_compiler: str
    compiler: str
    compiler_version: Version | None
    cores: int | None
    memory: int | None
    disk: int | None
    cpu_flags: frozenset[str]
    headers: frozenset[str]
    objdump: str
    cuda: CudaFacts | None = None

    @property
    def compiler_name(self) -> str:
        """What a manifest calls the compiler, such as "g++ 12.2.0"."""
        return f"{PurePosixPath(self.compiler).name} {self.compiler_version}"


def read_toolchain(c: Context, spec: BuildSpec, cache: Path) -> Toolchain:
    """Read this machine (or whichever one ``c`` runs on)."""
    asked_python = spec.python or sys.executable
    asked_compiler = os.environ.get("CXX") or "g++"
    compiler = _read(c, f"command -v {shlex.quote(asked_compiler)}").strip()
    cpuinfo = _read(c, "grep -m1 ^flags /proc/cpuinfo")
    python = parse_python(_read(c, shlex.join([asked_python, "-I", "-c", PYTHON_FACTS])))
    return Toolchain(
        machine=_read(c, "uname -m").strip(),
        asked_python=asked_python,
        python=python,
        asked_compiler=asked_compiler,
        compiler=compiler,
        compiler_version=_read_gcc_version(c, compiler) if compiler else None,
        cores=_parse_number(_read(c, "nproc")),
        memory=parse_memory(
            _read(c, "cat /proc/meminfo"), cgroup=_read(c, "cat /sys/fs/cgroup/memory.max")
        ),
        disk=parse_df(_read(c, f"df -Pk {shlex.quote(str(_existing(cache)))}")),
        cpu_flags=frozenset(cpuinfo.partition(":")[2].split()),
        headers=frozenset(
            op.header for op in spec.ops if op.header and _read_header(c, compiler, op.header)
        ),
        objdump=_read(c, "command -v objdump").strip(),
        cuda=_read_cuda(c, spec, python, cache) if spec.accelerator == "cuda" else None,
    )


def read_native_level(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU level of this machine, which ``--cpu native`` means; None when it has none."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return None
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    level = isa.highest_level(flags.partition(":")[2].split())
    return level.name if level else None


def _read_cuda(c: Context, spec: BuildSpec, python: Python | None, cache: Path) -> CudaFacts:
    layout = Layout(root=cache.absolute())
    path = environment_path(spec, python, layout, sha256_of(LOCK)) if python else None
    environment = read_environment(path) if path else None
    torch_cuda = expected_torch_cuda(spec.torch)
    if environment is not None:
        torch_cuda = environment.torch_cuda or ""
    toolkits = read_toolkits(lambda command: _read(c, command), os.environ, torch_cuda, cache)
    toolkit = choose_toolkit(spec.toolkit, toolkits, torch_cuda) if torch_cuda else None
    absent: tuple[str, ...] = ()
    if environment and toolkit and toolkit.home.is_dir():
        packages = next(environment.path.glob("lib/python*/site-packages"))
        absent = missing(read_view(toolkit.home, packages), spec.toolkit_parts)
    return CudaFacts(
        torch_cuda=torch_cuda,
        torch_read=environment is not None,
        toolkits=toolkits,
        toolkit=toolkit,
        missing=absent,
    )


def _read(c: Context, command: str) -> str:
    result = c.run(command, hide=True, warn=True, in_stream=False, dry=False)
    return str(result.stdout) if result is not None and result.ok else ""


def _read_gcc_version(c: Context, compiler: str) -> Version | None:
    # clang answers -dumpversion too, but not -dumpfullversion: only a gcc gets past this.
    try:
        return Version(_read(c, f"{shlex.quote(compiler)} -dumpfullversion").strip())
    except InvalidVersion:
        return None


def _read_header(c: Context, compiler: str, header: str) -> bool:
    probe = f"printf '#include <%s>\\n__ok__\\n' {header} | {shlex.quote(compiler)} -E -x c++ -"
    return bool(compiler) and "__ok__" in _read(c, probe)


def _existing(path: Path) -> Path:
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def parse_memory(meminfo: str, *, cgroup: str = "") -> int | None:
    """``/proc/meminfo`` and a cgroup's memory.max ("" or "max": no limit) → available bytes."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            limit = _parse_number(cgroup)
            return available if limit is None else min(available, limit)
    return None


def parse_df(text: str) -> int | None:
    """``df -Pk`` of one path → free bytes."""
    rows = text.splitlines()[1:]
    number = _parse_number(rows[-1].split()[3]) if rows and len(rows[-1].split()) > 3 else None
    return None if number is None else number * 1024


def _parse_number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def jobs_of(toolchain: Toolchain, asked: int | None = None) -> int:
    """How many compilers at once: as asked, else one per core for which memory is there."""
    if asked is not None:
        return asked
    return max(1, min(toolchain.cores or 1, (toolchain.memory or 0) // COMPILER_BYTES))
