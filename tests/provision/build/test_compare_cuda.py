from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.compare import compare_toolchain, without_missing
from provision.build.spec import parse_build_spec
from provision.build.toolchain import GIB
from provision.findings import Level
from provision.wheel.ops import ops_of


def lines(spec, toolchain, level=Level.ERROR) -> list[str]:
    found = compare_toolchain(spec, toolchain).findings
    return [str(f).removeprefix("this machine: ") for f in found if f.level is level]


def test_a_machine_that_can_build(cuda_spec, make_toolchain, make_cuda) -> None:
    report = compare_toolchain(cuda_spec, make_toolchain(cuda=make_cuda()))
    assert report.ok
    assert not report.telling
    subjects = [f.subject for f in report.findings]
    assert {"torch CUDA", "toolkit", "--arch", "g++ for nvcc"} <= set(subjects)


def test_a_cpu_wheel_asks_nothing_of_cuda(spec, make_toolchain) -> None:
    subjects = {f.subject for f in compare_toolchain(spec, make_toolchain()).findings}
    assert not {"torch CUDA", "toolkit"} & subjects


def test_everything_wrong_is_told_at_once(make_toolchain, make_cuda) -> None:
    spec = parse_build_spec(arch="7.0;8.0", ops="async_io")
    old = replace(make_cuda().toolkit, gcc=11)
    toolchain = make_toolchain(
        cuda=make_cuda(toolkit=old, torch_read=False, missing=("include/cusparse.h",)),
        disk=7 * GIB,
    )
    arch, gcc, part, disk, libaio = lines(spec, toolchain)
    assert arch.startswith("--arch: found 7.0, expected one that CUDA 13.0 compiles: 7.5 8.0 ")
    assert "the nearest here is 7.5; CUDA 11.8 to 12.9 compiles 7.0" in arch
    assert gcc.startswith("g++ for nvcc: found 12.2.0, expected g++ <= 11")
    assert part.startswith("include/cusparse.h: found none")
    assert "--toolkit pypi" in part
    assert disk.startswith("disk: found 7.0 GiB, expected >= 8.0 GiB")
    assert libaio.startswith("libaio.h")


def test_bf16_is_lost_to_all_for_one_old_gpu(make_toolchain, make_cuda) -> None:
    def warned(arch: str) -> list[str]:
        toolchain = make_toolchain(cuda=make_cuda())
        return lines(parse_build_spec(arch=arch), toolchain, Level.WARN)

    assert warned("8.0;9.0") == []
    assert "build a wheel of its own for 7.5" in warned("7.5;8.0+PTX")[0]
    assert "DeepSpeed compiles none of them" in warned("7.5")[0]
    assert "of its own" not in warned("7.5")[0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("auto", "install CUDA 13.0 and name it with CUDA_HOME"),
        ("system", "or leave --toolkit out"),
        ("pypi", "and leave --toolkit out"),
    ],
)
def test_no_toolkit_that_fits(make_toolchain, make_cuda, asked, words) -> None:
    spec = parse_build_spec(arch="8.0", toolkit=asked)
    old = replace(make_cuda().toolkit, version="12.8.61")
    cuda = make_cuda(toolkits=(old,), toolkit=None)
    (found,) = lines(spec, make_toolchain(cuda=cuda))
    expected = "none" if asked == "pypi" else "CUDA 12.8.61 (/usr/local/cuda)"
    assert found.startswith(f"toolkit: found {expected}, expected CUDA 13.0, as torch has: ")
    assert words in found


def test_what_is_not_known_is_not_ok(cuda_spec, make_toolchain, make_cuda) -> None:
    unknown = make_toolchain(cuda=make_cuda(torch_cuda="", toolkits=(), toolkit=None))
    (found,) = lines(cuda_spec, unknown, Level.UNKNOWN)
    assert "name a build of it, as in --torch 2.13.0+cu130" in found
    silent = replace(make_cuda().toolkit, archs=(), gcc=None)
    archs, gcc = lines(cuda_spec, make_toolchain(cuda=make_cuda(toolkit=silent)), Level.UNKNOWN)
    assert archs.startswith("--arch: found unknown to its nvcc")
    assert gcc.startswith("g++ for nvcc")


def test_the_table_says_where_torchs_cuda_is_known_from(
    cuda_spec, make_toolchain, make_cuda
) -> None:
    def expected(*, read: bool) -> str:
        report = compare_toolchain(cuda_spec, make_toolchain(cuda=make_cuda(torch_read=read)))
        return next(f.expected for f in report.findings if f.subject == "torch CUDA")

    assert "in the build environment" in expected(read=True)
    assert "read again once it is there" in expected(read=False)


def test_all_ops_are_those_that_can_be_built_here_and_the_others_are_named(
    make_toolchain, make_cuda
) -> None:
    spec = parse_build_spec(arch="8.0", ops="all")
    bare = make_toolchain(cuda=make_cuda())
    fitted = without_missing(spec, bare)
    assert {"async_io"} == set(spec.op_names) - set(fitted.op_names)
    told = {line.split(":")[0]: line for line in lines(fitted, bare, Level.WARN)}
    assert set(told) == {f"op {name}" for name in set(ops_of("cuda")) - set(fitted.op_names)}
    assert "it needs libaio.h and lib64/libcuda.so" in told["op async_io"]
    assert "deepspeed-kernels" in told["op cutlass_ops"]
    assert "name it in --ops to try" in told["op gds"]
    assert compare_toolchain(fitted, bare).ok
    aio = frozenset({"libaio.h"})
    assert without_missing(spec, make_toolchain(cuda=make_cuda(), headers=aio)) == spec
    slim = make_toolchain(cuda=make_cuda(missing=("lib64/libcuda.so",)), headers=aio)
    assert without_missing(spec, slim) == fitted
    assert compare_toolchain(fitted, slim).ok
    named = parse_build_spec(arch="8.0", ops="async_io")
    assert lines(named, slim)[0].startswith("lib64/libcuda.so: found none")
    asked = parse_build_spec(arch="8.0", ops="async_io")
    assert without_missing(asked, bare) == asked  # what is asked for by name is an error


def test_an_older_compiler_than_torch_takes(cuda_spec, make_toolchain, make_cuda) -> None:
    old = make_toolchain(cuda=make_cuda(), compiler_version=Version("10.2"))
    assert lines(cuda_spec, old)[0].startswith("compiler: found /usr/bin/g++ 10.2")


def test_packages_are_a_toolkit_like_any_other(cuda_spec, make_toolchain, make_cuda) -> None:
    packages = replace(make_cuda().toolkit, lock=Path("/locks/cuda-13.0.lock"))
    toolchain = make_toolchain(cuda=make_cuda(toolkit=packages))
    found = {f.subject: f.found for f in compare_toolchain(cuda_spec, toolchain).findings}
    assert found["toolkit"] == "CUDA 13.0.88 (packages of cuda-13.0.lock)"
