"""The CPU level of a wheel, on emulated CPUs: it runs on that level, and dies below it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import provision.build.proof
from provision.build.apply import apply_build
from provision.build.audit import ADAM_TOLERANCE, Audit, parse_proof
from provision.build.plan import BuildPlan
from provision.build.spec import parse_build_spec
from provision.errors import BuildError
from provision.wheel import isa
from provision.wheel.manifest import WheelManifest

QEMU = shutil.which("qemu-x86_64")
PROOF = provision.build.proof.__file__

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(QEMU is None, reason="needs qemu: qemu-x86_64 of qemu-user"),
]


@pytest.fixture(scope="module")
def fresh(
    wheel: WheelManifest, plan: BuildPlan, tmp_path_factory: pytest.TempPathFactory, audited
) -> Path:
    """An environment with the x86-64-v3 wheel."""
    work = tmp_path_factory.mktemp("fresh")
    proved: Audit = audited(plan, plan.spec.out / wheel.wheel, work)
    assert proved.inspection.isa == "x86-64-v3"
    return work / "fresh"


def proof_on(cpu: str, fresh: Path) -> tuple[int, dict]:
    """Loading CPU-Adam and its steps on an emulated CPU: exit status, answers."""
    done = subprocess.run(
        [str(QEMU), "-cpu", cpu, str(fresh / "bin" / "python"), "-I", PROOF,
         json.dumps({"cpu_adam": "CPUAdamBuilder"})],
        env={"DS_ACCELERATOR": "cpu", "PATH": "/usr/bin:/bin", "HOME": str(fresh),
             "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
    )  # fmt: skip
    print(done.stderr[-2000:])
    return done.returncode, parse_proof(done.stdout.splitlines())


def test_the_wheel_runs_on_its_level(fresh: Path) -> None:
    status, answers = proof_on("Haswell", fresh)
    assert (status, answers["cpu_adam"]) == (0, "ok")
    assert answers["adam"] <= ADAM_TOLERANCE


def test_the_wheel_dies_below_its_level(fresh: Path) -> None:
    status, answers = proof_on("Nehalem", fresh)
    assert status == -signal.SIGILL
    assert answers["cpu_adam"] in ("loading", "ok")  # torch and DeepSpeed themselves did run
    assert "adam" not in answers


def test_what_native_means_on_a_machine_with_avx512_dies_on_one_without(
    plan: BuildPlan, builds: Path, tmp_path: Path, planned, audited
) -> None:
    # DeepSpeed's own build takes -march=native and the widest vectors of the machine it runs on.
    # On one with AVX-512 that is this build; on any other the proof itself ends with SIGILL.
    spec = replace(
        parse_build_spec(accelerator="cpu", ops="cpu_adam", out=str(tmp_path / "out")),
        cpu=isa.LEVELS["x86-64-v4"],
    )
    here = planned(replace(spec, cpu=plan.spec.cpu), builds)
    wrapper = isa.wrapper_script(
        level=spec.cpu,
        compiler=here.toolchain.compiler,
        version=str(here.toolchain.compiler_version),
        libraries={},
    )
    native = replace(here, spec=spec, wrapper=wrapper)
    if isa.missing_flags(spec.cpu, here.toolchain.cpu_flags):
        with pytest.raises(BuildError, match="exit status -4"):
            apply_build(native, print)
        assert not spec.out.exists()
    else:
        apply_build(native, print)
    status, answers = proof_on("Haswell", native.state.layout.work / "fresh")
    assert status == -signal.SIGILL
    assert answers["cpu_adam"] in ("loading", "ok")
    assert "adam" not in answers
