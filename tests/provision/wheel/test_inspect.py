from __future__ import annotations

import _ctypes
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.findings import Level
from provision.wheel.binary import Floors
from provision.wheel.consistency import compare_inspection, read_manifest_beside
from provision.wheel.contents import Contents
from provision.wheel.cubin import DeviceCode, wanted_code
from provision.wheel.inspect import (
    Inspection,
    Module,
    read_inspection,
    read_module,
    read_objdump,
)
from provision.wheel.isa import Foreign, Instructions
from provision.wheel.manifest import apply_manifest, sha256_of

WHEEL = "deepspeed-0.19.8+torch2.13.cpu.x86v3-cp311-cp311-linux_x86_64.whl"
ADAM = "deepspeed/ops/adam/cpu_adam_op.cpython-311-x86_64-linux-gnu.so"
ADD = Foreign(function="f(int)", instruction="vaddps %zmm1,%zmm2,%zmm3")
KEYS = [
    *("ops", "requested_ops", "accelerator", "archs", "ptx", "isa", "glibc", "glibcxx"),
    *("torch", "cuda", "python", "sha256", "size"),
]


def code(level: str, **more) -> Instructions:
    first = {level: ADD} if level != "x86-64" else {}
    return Instructions(**{"level": level, "first": first, "beyond": (), **more})


def module(op: str, **changes) -> Module:
    values = {
        "op": op,
        "floors": Floors(glibc="2.34", glibcxx="3.4.30"),
        "code": DeviceCode(),
        "instructions": code("x86-64-v3"),
    }
    return Module(**{**values, **changes})


def inspection(*modules: Module, **changes) -> Inspection:
    ops = {one.op: f"deepspeed/ops/{one.op}_op.so" for one in modules}
    values = {
        "version": "0.19.8",
        "tags": ("cp311-cp311-linux_x86_64",),
        "modules": ops,
        "installed_ops": tuple(sorted(ops)),
        "accelerator": "cpu",
        "torch": "2.13",
        "torch_cuda": None,
    }
    contents = Contents(**{**values, **changes})
    return Inspection(name=WHEEL, sha256="ab" * 32, size=3, contents=contents, modules=modules)


@pytest.fixture
def of_manifest(make_manifest):
    return make_manifest(ops=("cpu_adam",), glibc="2.34", glibcxx="3.4.30")


def test_keys_are_a_contract(of_manifest) -> None:
    values = inspection(module("cpu_adam")).as_json(of_manifest)
    assert set(KEYS) <= values.keys()
    assert values["requested_ops"] == ["cpu_adam"]
    assert inspection().as_json()["requested_ops"] is None


def test_the_highest_of_all_modules() -> None:
    found = inspection(
        module("cpu_adam", floors=Floors(glibc="2.4", glibcxx="")),
        module("fused_adam", code=wanted_code(("8.0", "9.0+PTX")), instructions=code("x86-64")),
        module("utils", code=wanted_code(("10.0",))),
    )
    assert (found.archs, found.ptx) == (("8.0", "9.0", "10.0"), ("9.0",))
    assert (found.isa, found.glibc, found.glibcxx) == ("x86-64-v3", "2.34", "3.4.30")


def test_a_level_is_known_of_all_modules_or_not_at_all() -> None:
    assert inspection(module("a"), module("b", instructions=None)).isa is None
    assert inspection().isa is None
    assert (inspection().glibc, inspection().glibcxx) == (None, None)


def test_read_a_real_module() -> None:
    found = read_module("cpu_adam", Path(_ctypes.__file__), read_objdump())
    assert found.instructions
    assert found.instructions.level.startswith("x86-64")
    assert found.code == DeviceCode()
    assert read_module("cpu_adam", Path(_ctypes.__file__), "").instructions is None


def test_a_module_that_is_none_is_one_line(tmp_path: Path) -> None:
    wheel = tmp_path / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("deepspeed/git_version_info_installed.py", "installed_ops={'cpu_adam':1}")
        archive.writestr(ADAM, "no shared object")
    with pytest.raises(ConfigError, match=r"cpu_adam_op.*a shared object of x86-64"):
        read_inspection(wheel, "")


def test_a_consistent_wheel_has_no_findings(of_manifest) -> None:
    found = inspection(module("cpu_adam"))
    assert compare_inspection(found, of_manifest).findings == ()
    assert compare_inspection(found, None).findings == ()


def test_a_wheel_with_nothing_compiled_is_a_note() -> None:
    found = inspection(tags=("py3-none-any",))
    (finding,) = compare_inspection(found, None).findings
    assert finding.level is Level.NOTE
    assert "every host compiles every op" in finding.remedy


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (inspection(module("a"), installed_ops=("a", "b")), "a module of b, which it calls inst"),
        (inspection(module("a"), installed_ops=()), "a left out, expected in its list"),
        (inspection(module("a"), tags=("py3-none-any",)), "tag: found py3-none-any"),
        (inspection(module("a"), accelerator="cuda"), "found one without CUDA"),
        (inspection(module("a", code=wanted_code(("8.0",)))), "found 8.0, expected none: cpu"),
        (
            inspection(
                module("a", code=wanted_code(("8.0",))),
                module("b", code=wanted_code(("9.0+PTX",))),
                accelerator="cuda",
                torch_cuda="13.0",
            ),
            "found a: 8.0; b: 9.0, PTX 9.0, expected one list",
        ),
        (
            inspection(
                module("a", code=DeviceCode(registers=True)),
                accelerator="cuda",
                torch_cuda="13.0",
            ),
            "device code of a: found none",
        ),
        (inspection(module("a", instructions=None)), "instructions: found unknown"),
    ],
)
def test_a_wheel_that_contradicts_itself(found: Inspection, words: str) -> None:
    report = compare_inspection(found, None)
    assert report.exit_code == 1
    assert words in "\n".join(str(finding) for finding in report.failing)


def test_instructions_of_no_level_are_a_warning() -> None:
    found = inspection(module("a", instructions=code("x86-64", beyond=(ADD,))))
    (finding,) = compare_inspection(found, None).findings
    assert finding.level is Level.WARN


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ops": ("cpu_adam", "utils")}, "ops: found cpu_adam, expected cpu_adam, utils (its man"),
        ({"accelerator": "cuda"}, "accelerator: found cpu, expected cuda (its manifest)"),
        ({"glibc": "2.28"}, "glibc: found 2.34, expected 2.28 (its manifest)"),
        ({"glibcxx": ""}, "glibcxx: found 3.4.30, expected none (its manifest)"),
        ({"cpu": "x86-64-v2"}, "instructions of cpu_adam: found vaddps"),
    ],
)
def test_a_wheel_that_contradicts_its_manifest(of_manifest, changes, words: str) -> None:
    report = compare_inspection(inspection(module("cpu_adam")), replace(of_manifest, **changes))
    assert words in "\n".join(str(finding) for finding in report.failing)


def test_device_code_that_is_not_the_manifests(of_manifest) -> None:
    modules = (module("cpu_adam"), module("fused_adam", code=wanted_code(("8.0",))))
    found = inspection(*modules, accelerator="cuda", torch_cuda="13.0")
    said = replace(
        of_manifest, ops=("cpu_adam", "fused_adam"), accelerator="cuda", arch_list=("8.0+PTX",)
    )
    (finding,) = compare_inspection(found, said).findings
    assert str(finding).endswith("ptx: found none, expected 8.0 (its manifest): build it again")
    assert compare_inspection(found, replace(said, arch_list=("8.0",))).ok


def test_a_manifest_of_another_file_is_a_finding(tmp_path: Path, make_manifest) -> None:
    wheel = tmp_path / WHEEL
    wheel.write_bytes(b"a wheel")
    assert read_manifest_beside(wheel) == (None, ())
    manifest = make_manifest(size=7, sha256=sha256_of(wheel))
    apply_manifest(manifest, tmp_path)
    assert read_manifest_beside(wheel) == (manifest, ())
    wheel.write_bytes(b"b wheel")
    found, findings = read_manifest_beside(wheel)
    assert found is None
    assert not compare_inspection(inspection(), None, findings).ok
