from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
from invoke import MockContext, Result
from invoke.context import Context
from packaging.version import Version

from provision.build.spec import parse_build_spec
from provision.build.toolchain import (
    GIB,
    jobs_of,
    parse_df,
    parse_memory,
    read_native_level,
    read_toolchain,
)
from provision.wheel.isa import LEVELS

MEMINFO = "MemTotal:       24689600 kB\nMemFree:  1 kB\nMemAvailable:   16777216 kB\n"


def test_memory_is_what_is_available_within_the_cgroup() -> None:
    assert parse_memory(MEMINFO) == 16 * GIB
    assert parse_memory(MEMINFO, cgroup="max\n") == 16 * GIB
    assert parse_memory(MEMINFO, cgroup=f"{4 * GIB}\n") == 4 * GIB
    assert parse_memory("") is None


def test_df() -> None:
    text = (
        "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
        "/dev/sda1 263000000 22000000 83886080 22% /\n"
    )
    assert parse_df(text) == 80 * GIB
    assert parse_df("") is None


@pytest.mark.parametrize(
    ("cores", "memory", "asked", "jobs"),
    [(8, 64, None, 8), (8, 7, None, 3), (8, 1, None, 1), (None, None, None, 1), (8, 64, 5, 5)],
)
def test_jobs(make_toolchain, cores, memory, asked, jobs) -> None:
    size = memory if memory is None else memory * GIB
    assert jobs_of(make_toolchain(cores=cores, memory=size), asked) == jobs


def test_reads_this_machine(tmp_path: Path) -> None:
    spec = parse_build_spec(accelerator="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Invoke leaves its pipes to the collector
        toolchain = read_toolchain(Context(), spec, tmp_path / "no" / "where")
        gc.collect()
    assert toolchain.python is not None
    assert toolchain.machine
    assert toolchain.cores
    assert toolchain.memory
    assert toolchain.disk


def test_what_cannot_be_read_is_unknown_and_clang_is_no_gcc(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "clang++")
    c = MockContext(run={
        "command -v clang++": Result("/usr/bin/clang++\n"),
        **dict.fromkeys(
            ["/usr/bin/clang++ -dumpfullversion", "nproc", "uname -m", "cat /proc/meminfo",
             "grep -m1 ^flags /proc/cpuinfo", "cat /sys/fs/cgroup/memory.max",
             "command -v objdump", f"df -Pk {tmp_path}"],
            Result("", exited=1),
        ),
        "python9": Result("", exited=127),
    }, repeat=True)  # fmt: skip
    spec = parse_build_spec(accelerator="cpu", python="python9")
    real, c.run = c.run, lambda command, **kw: real(
        "python9" if command.startswith("python9") else command, **kw
    )  # fmt: skip
    toolchain = read_toolchain(c, spec, tmp_path)
    assert toolchain.compiler == "/usr/bin/clang++"
    assert toolchain.compiler_version is None
    assert toolchain.python is None
    assert (toolchain.cores, toolchain.memory, toolchain.disk) == (None, None, None)
    assert (toolchain.machine, toolchain.objdump, toolchain.cpu_flags) == ("", "", frozenset())


def test_native_is_the_level_of_this_machine(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    flags = " ".join(LEVELS["x86-64-v3"].flags)
    cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\nbugs : none\n")
    assert read_native_level(cpuinfo) == "x86-64-v3"
    cpuinfo.write_text("processor : 0\n")
    assert read_native_level(cpuinfo) is None
    assert read_native_level(tmp_path / "none") is None


def test_compiler_name(make_toolchain) -> None:
    toolchain = make_toolchain(compiler="/opt/gcc/bin/g++-13", compiler_version=Version("13.1.0"))
    assert toolchain.compiler_name == "g++-13 13.1.0"
