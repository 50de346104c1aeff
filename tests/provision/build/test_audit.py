from __future__ import annotations

from dataclasses import replace

import pytest

from provision.build.audit import (
    NO_DRIVER,
    Audit,
    compare_contents,
    compare_module,
    compare_places,
    compare_proof,
    describe,
    parse_proof,
)
from provision.errors import BuildError
from provision.wheel import isa
from provision.wheel.binary import Floors
from provision.wheel.contents import Contents
from provision.wheel.cubin import DeviceCode, wanted_code
from provision.wheel.inspect import Inspection, Module
from provision.wheel.isa import Foreign, Instructions

WHEEL = "deepspeed-0.19.8+torch2.13.cpu.x86v3-cp311-cp311-linux_x86_64.whl"
ADAM = "deepspeed/ops/adam/cpu_adam_op"
SHM = "deepspeed/ops/comm/deepspeed_shm_comm_op"
SUFFIX = ".cpython-311-x86_64-linux-gnu.so"
GOOD = Contents(
    version="0.19.8+torch2.13.cpu.x86v3",
    tags=("cp311-cp311-linux_x86_64",),
    modules={"cpu_adam": ADAM + SUFFIX, "shm_comm": SHM + SUFFIX},
    installed_ops=("cpu_adam", "shm_comm"),
    accelerator="cpu",
    torch="2.13",
    torch_cuda=None,
)
ADD = Foreign(function="f(int)", instruction="vaddps %ymm1,%ymm2,%ymm3")
V3_CODE = Instructions(level="x86-64-v3", first={"x86-64-v3": ADD}, beyond=())
PROOF = {"cpu_adam": "ok", "shm_comm": "ok", "adam": 2.9e-6}


def test_good_wheel(spec) -> None:
    compare_contents(GOOD, spec, wheel=WHEEL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tags": ("py3-none-any",)}, "py3-none-any"),
        ({"accelerator": "cuda"}, "built for accelerator cuda, expected cpu"),
        ({"accelerator": ""}, "accelerator unknown"),
        ({"installed_ops": ("cpu_adam",)}, "op shm_comm left out"),
        ({"installed_ops": (*GOOD.installed_ops, "cpu_lion")}, "op cpu_lion that nobody asked"),
        ({"modules": {"cpu_adam": ADAM + SUFFIX}}, "op shm_comm without its module"),
        ({"modules": {**GOOD.modules, "x": "deepspeed/ops/x_op.so"}}, "modules of x, expected"),
    ],
)
def test_refused(spec, changes, words: str) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        compare_contents(replace(GOOD, **changes), spec, wheel=WHEEL)
    assert caught.value.exit_code == 4


def test_proof_answers_among_noise() -> None:
    lines = ["[WARNING] hello", 'zerofleet-proof {"cpu_adam": "loading"}',
             'zerofleet-proof {"cpu_adam": "ok"}', "zerofleet-proof"]  # fmt: skip
    assert parse_proof(lines) == {"cpu_adam": "ok"}


def test_good_proof(spec) -> None:
    compare_proof(PROOF, spec, status=0)


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"shm_comm": "loading"}, -4, r"op shm_comm: .* ended while it was loaded .*status -4"),
        ({"shm_comm": "ImportError: undefined symbol: io_submit"}, 0, "io_submit"),
        ({"adam": 2e-5}, 0, "op cpu_adam: found a difference of 2e-05"),
        ({"adam": float("nan")}, 0, "difference of nan"),
        ({"adam": None}, 1, "op cpu_adam: found no answer"),
        ({}, 139, "exit status 139"),
    ],
)
def test_refused_proof(spec, changes, status: int, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        compare_proof({**PROOF, **changes}, spec, status=status)


def test_an_op_that_was_not_reached(spec) -> None:
    with pytest.raises(BuildError, match="op shm_comm: found not reached"):
        compare_proof({"cpu_adam": "ok"}, spec, status=-11)


def module(op: str = "fused_adam", **changes) -> Module:
    values = {
        "op": op,
        "floors": Floors(glibc="2.34", glibcxx="3.4.30"),
        "code": DeviceCode(),
        "instructions": V3_CODE,
    }
    return Module(**{**values, **changes})


def test_an_instruction_above_the_level_is_refused(spec) -> None:
    compare_module(module(), spec)
    older = replace(spec, cpu=isa.LEVELS["x86-64-v2"])
    with pytest.raises(BuildError, match=r"vaddps .* in f\(int\), expected no .* above x86-64-v2"):
        compare_module(module(), older)


@pytest.mark.parametrize(
    ("archs", "words"),
    [
        (("8.0",), "device code for 6.0, 6.1, 7.0"),  # DeepSpeed's own list, when given none
        (("8.0",), "device code for no GPU"),
        (("8.0", "9.0+PTX"), "device code for 8.0, 9.0, expected 8.0, 9.0, PTX 9.0"),
        (("8.0", "9.0"), "device code for 8.0, 9.0, PTX 9.0, expected 8.0, 9.0"),
        (("9.0",), "device code for 9.0a, expected 9.0"),
    ],
)
def test_other_device_code_than_asked_is_refused(spec, archs, words: str) -> None:
    found = words.partition("device code for ")[2].partition(", expected")[0].split(", ")
    cubins = tuple(one for one in found if not one.startswith(("PTX", "no GPU")))
    ptx = tuple(one.removeprefix("PTX ") for one in found if one.startswith("PTX"))
    cuda = replace(spec, accelerator="cuda", archs=archs)
    compare_module(module(code=wanted_code(archs)), cuda)
    with pytest.raises(BuildError, match=words):
        compare_module(module(code=DeviceCode(cubins=cubins, ptx=ptx, registers=True)), cuda)


def test_an_op_without_device_code_has_none_to_compare(spec) -> None:
    compare_module(module(op="cpu_adam"), replace(spec, accelerator="cuda", archs=("8.0",)))


def test_a_path_of_this_machine_is_refused() -> None:
    compare_places({}, wheel=WHEEL)
    with pytest.raises(BuildError, match=r"/cache/work in deepspeed/x\.py"):
        compare_places({"deepspeed/x.py": "/cache/work"}, wheel=WHEEL)


def test_an_op_that_needs_a_driver_is_said_to_be_unloaded_and_only_for_a_gpu(spec) -> None:
    answers = {**PROOF, "shm_comm": NO_DRIVER + "libcuda.so.1: cannot open shared object file"}
    cuda = replace(spec, accelerator="cuda")
    assert compare_proof(answers, cuda, status=0) == {
        "shm_comm": "libcuda.so.1: cannot open shared object file"
    }
    with pytest.raises(BuildError, match="op shm_comm: found no driver"):
        compare_proof(answers, spec, status=0)


def test_what_was_proved_is_said(spec) -> None:
    found = Inspection(
        name=WHEEL,
        sha256="ab" * 32,
        size=3,
        contents=GOOD,
        modules=(module("cpu_adam"), module("fused_adam", code=wanted_code(("8.0", "9.0+PTX")))),
    )
    audit = Audit(
        inspection=found,
        not_loaded={"shm_comm": "no libcuda"},
        isa_checked=True,
        archs_checked=True,
    )
    said = "\n".join(describe(audit, spec))
    assert "loaded with compiling turned off: cpu_adam\nshm_comm not loadable here: no libc" in said
    assert "device code for 8.0, 9.0, PTX 9.0" in said
    unchecked = replace(audit, isa_checked=False, archs_checked=False)
    assert not [
        line for line in describe(unchecked, spec) if "instruction" in line or "8.0" in line
    ]
