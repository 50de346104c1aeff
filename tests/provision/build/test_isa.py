from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provision.build.isa import (
    LEVELS,
    find_level,
    foreign_instructions,
    missing_flags,
    wrapper_script,
)
from provision.errors import ConfigError

V3, V4 = LEVELS["x86-64-v3"], LEVELS["x86-64-v4"]
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
    ("level", "macro"), [(V3, "-D__AVX256__"), (V4, "-D__AVX512__")], ids=["v3", "v4"]
)
@pytest.mark.parametrize("detected", ["-D__AVX512__", "-D__AVX256__", "-D__SCALAR__"])
def test_wrapper_changes_flag_and_macro_together(tmp_path, level, macro, detected) -> None:
    compiler = tmp_path / "a compiler"
    compiler.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    compiler.chmod(0o755)
    wrapper = tmp_path / "g++"
    wrapper.write_text(wrapper_script(level=level, compiler=str(compiler), version="12.2.0"))
    wrapper.chmod(0o755)
    given = ["-O3", "-march=native", detected, "-DX=a b", "", "-o", "$(x)*"]
    said = subprocess.run([wrapper, *given], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:-1] == [
        "-O3", f"-march={level.name}", macro, "-DX=a b", "", "-o", "$(x)*",
    ]  # fmt: skip


def test_wrapper_text_changes_with_the_compiler() -> None:
    texts = {wrapper_script(level=V3, compiler="g++", version=v) for v in ("12.2.0", "13.1.0")}
    assert len(texts) == 2


def test_foreign_instruction_is_named_with_its_function() -> None:
    (foreign,) = foreign_instructions(OBJDUMP.read_text().splitlines(), level=V3)
    assert foreign.function.startswith("reduce_bf16_buffers(")
    assert foreign.instruction == "vpbroadcastd %eax,%zmm4"


def test_guarded_functions_are_passed_over_and_only_they() -> None:
    lines = OBJDUMP.read_text().splitlines()
    assert foreign_instructions(lines, level=V3, guarded=["reduce_bf16_buffers"]) == ()
    assert foreign_instructions(lines, level=V3, guarded=["reduce_bf16"])


@pytest.mark.parametrize(
    ("operands", "above_v3"),
    [("(%rax),%ymm15", False), ("%xmm16,%xmm0", True), ("%ymm31,%ymm1", True),
     ("%ymm1,%ymm2{%k1}", True), ("%zmm0,%zmm1", True), ("%rax,%rbx", False)],
)  # fmt: skip
def test_registers_of_avx512(operands: str, above_v3: bool) -> None:
    lines = ["0000 <f>:", f"   11:\tvaddps {operands}"]
    assert bool(foreign_instructions(lines, level=V3)) is above_v3
    assert foreign_instructions(lines, level=V4) == ()
