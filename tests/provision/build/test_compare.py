from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.version import Version

from provision.build.compare import compare_toolchain
from provision.build.spec import parse_build_spec
from provision.build.toolchain import GIB
from provision.findings import Level


def failing(spec, toolchain) -> dict[str, str]:
    return {f.subject: str(f) for f in compare_toolchain(spec, toolchain).failing}


def test_a_machine_that_can_build(spec, make_toolchain) -> None:
    report = compare_toolchain(spec, make_toolchain())
    assert report.ok
    assert {f.subject for f in report.findings} == {"CPU", "Python", "compiler", "memory", "disk"}


def test_everything_wrong_is_told_at_once(make_toolchain) -> None:
    spec = parse_build_spec(accelerator="cpu", cpu="x86-64-v4", ops="async_io", jobs=9)
    toolchain = make_toolchain(python=None, compiler="", compiler_version=None, disk=GIB)
    found = failing(spec, toolchain)
    assert set(found) == {"CPU", "Python", "compiler", "--jobs", "disk", "libaio.h (op async_io)"}
    assert "no avx512bw" in found["CPU"]
    assert "install libaio-dev" in found["libaio.h (op async_io)"]
    assert "found 9, expected at most 8" in found["--jobs"]


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"machine": "aarch64"}, "machine", "found aarch64, expected x86_64"),
        ({"compiler_version": None}, "compiler", "which is no gcc"),
        ({"compiler_version": Version("10.2")}, "compiler", "10.2, expected g++ >= 11"),
        ({"disk": None}, "disk", "unknown"),
        ({"cores": None}, "cores", "unknown"),
        ({"memory": None}, "memory", "unknown"),
        ({"cpu_flags": frozenset()}, "CPU", "x86-64-v3"),
    ],
)
def test_one_thing_wrong(spec, make_toolchain, changes, subject, words) -> None:
    found = failing(spec, make_toolchain(**changes))
    assert list(found) == [subject]
    assert words in found[subject]


def test_python_without_its_parts(spec, make_toolchain) -> None:
    python = replace(make_toolchain().python, has_venv=False, has_header=False)
    found = failing(spec, make_toolchain(python=python))
    assert "install python3.11-venv" in found["venv"]
    assert "install python3.11-dev" in found["Python.h"]
    old = replace(make_toolchain().python, version=Version("3.10.4"))
    assert "cpython 3.10.4" in failing(spec, make_toolchain(python=old))["Python"]


def test_little_memory_or_disk_is_a_warning(spec, make_toolchain) -> None:
    report = compare_toolchain(spec, make_toolchain(memory=GIB, disk=5 * GIB))
    assert report.ok
    warned = {f.subject for f in report.findings if f.level is Level.WARN}
    assert warned == {"memory", "disk"}
