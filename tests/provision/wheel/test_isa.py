from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.wheel.isa import (
    LEVELS,
    find_level,
    highest_level,
    missing_flags,
    parse_instructions,
    wrapper_script,
)

V2, V3, V4 = (LEVELS[f"x86-64-v{number}"] for number in (2, 3, 4))
OBJDUMP = Path(__file__).parents[2] / "facts" / "build" / "objdump.txt"


def test_level_names() -> None:
    assert find_level("x86-64-v4") is V4
    with pytest.raises(ConfigError, match="x86-64-v3 or x86-64-v4"):
        find_level("native")


def test_missing_flags() -> None:
    assert missing_flags(V3, V4.flags) == ()
    assert missing_flags(V4, V3.flags | {"avx512f"}) == (
        "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("level", "macro"),
    [(V2, "-D__SCALAR__"), (V3, "-D__AVX256__"), (V4, "-D__AVX512__")],
    ids=["v2", "v3", "v4"],
)
@pytest.mark.parametrize("detected", ["-D__AVX512__", "-D__AVX256__", "-D__SCALAR__"])
def test_wrapper_changes_flag_and_macro_together(tmp_path, level, macro, detected) -> None:
    compiler = tmp_path / "a compiler"
    compiler.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    compiler.chmod(0o755)
    wrapper = tmp_path / "g++"
    wrapper.write_text(wrapper_script(level=level, compiler=str(compiler), version="12.2.0"))
    wrapper.chmod(0o755)
    given = ["-O3", "-g", "-march=native", detected, "-DX=a b", "", "-o", "$(x)*"]
    said = subprocess.run([wrapper, *given], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:-1] == [
        "-O3", f"-march={level.name}", macro, "-DX=a b", "", "-o", "$(x)*",
    ]  # fmt: skip


def test_wrapper_gives_a_library_to_the_link_of_one_module_only(tmp_path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    compiler.chmod(0o755)
    wrapper = tmp_path / "g++"
    libraries = {"async_io_op": ("-laio",)}
    text = wrapper_script(level=V3, compiler=str(compiler), version="12", libraries=libraries)
    wrapper.write_text(text)
    wrapper.chmod(0o755)

    def last(*argv: str) -> str:
        said = subprocess.run([wrapper, *argv], capture_output=True, text=True, check=True).stdout
        return said.splitlines()[-1]

    assert last("-shared", "x.o", "-o", "build/aio/async_io_op.cpython-311.so") == "-laio"
    assert last("-shared", "x.o", "-o", "build/adam/cpu_adam_op.so") == "build/adam/cpu_adam_op.so"
    assert last("-c", "aio.cpp", "-o", "build/aio/async_io_op.o") == "build/aio/async_io_op.o"


def test_wrapper_text_changes_with_the_compiler() -> None:
    texts = {wrapper_script(level=V3, compiler="g++", version=v) for v in ("12.2.0", "13.1.0")}
    assert len(texts) == 2


def instructions(*lines: str, guarded=()):
    text = ["00 <f(int)>:", *(f"   11:\t{line}" for line in lines)]
    return parse_instructions(text, guarded=guarded)


def test_foreign_instruction_is_named_with_its_function() -> None:
    found = parse_instructions(OBJDUMP.read_text().splitlines())
    assert found.level == "x86-64-v4"
    foreign = found.above(V3)[0]
    assert foreign.function.startswith("reduce_bf16_buffers(")
    assert foreign.instruction == "vpbroadcastd %eax,%zmm4"
    assert found.above(V4) == ()


def test_guarded_functions_are_passed_over_and_only_they() -> None:
    lines = OBJDUMP.read_text().splitlines()
    assert parse_instructions(lines, guarded=["reduce_bf16_buffers"]).level == "x86-64-v3"
    assert parse_instructions(lines, guarded=["reduce_bf16"]).level == "x86-64-v4"


def test_nothing_disassembled_is_not_the_lowest_level() -> None:
    assert parse_instructions([]) is None
    assert parse_instructions(["x.so:     file format elf64-x86-64", ""]) is None


@pytest.mark.parametrize(
    ("instruction", "level"),
    [
        ("mov    %rax,%rbx", "x86-64"),
        ("mulps  %xmm1,%xmm15", "x86-64"),
        ("rep bsf %rax,%rbx", "x86-64"),
        ("tzcnt  %rax,%rbx", "x86-64"),  # what an older CPU reads as rep bsf
        ("verr   %ax", "x86-64"),
        ("call   e8e0 <std::pair<int, vaddps>::pextd()@plt>", "x86-64"),
        ("pshufb %xmm1,%xmm2", "x86-64-v2"),
        ("popcnt %rax,%rbx", "x86-64-v2"),
        ("lock cmpxchg16b (%rdi)", "x86-64-v2"),
        ("blendvps %xmm0,%xmm1,%xmm2", "x86-64-v2"),
        ("roundss $0x9,%xmm1,%xmm2", "x86-64-v2"),
        ("vaddps %xmm1,%xmm2,%xmm3", "x86-64-v3"),
        ("vmovups (%rax),%ymm15", "x86-64-v3"),
        ("vzeroupper", "x86-64-v3"),
        ("vfmadd231ps %ymm1,%ymm2,%ymm3", "x86-64-v3"),
        ("vcvtph2ps %xmm1,%ymm2", "x86-64-v3"),
        ("shlx   %rax,%rbx,%rcx", "x86-64-v3"),
        ("andn   %rax,%rbx,%rcx", "x86-64-v3"),
        ("lzcnt  %rax,%rbx", "x86-64-v3"),
        ("movbe  (%rax),%rbx", "x86-64-v3"),
        ("vaddps %xmm16,%xmm0,%xmm1", "x86-64-v4"),
        ("vaddps %ymm31,%ymm1,%ymm1", "x86-64-v4"),
        ("vaddps %ymm1,%ymm2,%ymm2{%k1}", "x86-64-v4"),
        ("vaddps %zmm0,%zmm1,%zmm1", "x86-64-v4"),
    ],
)
def test_level_of_an_instruction(instruction: str, level: str) -> None:
    found = instructions("nop", instruction)
    assert found.level == level
    assert found.beyond == ()


@pytest.mark.parametrize(
    "instruction",
    ["aesenc %xmm1,%xmm2", "sha256rnds2 %xmm0,%xmm1,%xmm2", "adcx   %rax,%rbx", "clzero",
     "tdpbf16ps %tmm1,%tmm2,%tmm3", "vpdpbusd %zmm1,%zmm2,%zmm3", "vdpbf16ps %zmm1,%zmm2,%zmm3",
     "vaddph %zmm1,%zmm2,%zmm3", "pclmulqdq $0x0,%xmm1,%xmm2"],
)  # fmt: skip
def test_what_no_level_has_is_above_all(instruction: str) -> None:
    (foreign,) = instructions(instruction).above(V4)
    assert foreign.function == "f(int)"
    assert foreign.instruction == " ".join(instruction.split())


def test_above_names_the_highest_first() -> None:
    found = instructions("vaddps %xmm1,%xmm2,%xmm3", "pshufb %xmm1,%xmm2", "vmovups %zmm0,%zmm1")
    assert [one.instruction for one in found.above(V2)] == [
        "vmovups %zmm0,%zmm1", "vaddps %xmm1,%xmm2,%xmm3",
    ]  # fmt: skip
    assert [one.instruction for one in found.above(V3)] == ["vmovups %zmm0,%zmm1"]


def test_highest_level() -> None:
    assert highest_level(V4.flags | {"amx_tile"}) is V4
    assert highest_level(V4.flags - {"avx512bw"}) is V3
    assert highest_level(V2.flags) is V2
    assert highest_level({"sse2"}) is None
