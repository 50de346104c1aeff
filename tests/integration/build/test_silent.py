"""What DeepSpeed does without a word, provoked for real: each time the proof says it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.apply import apply_build
from provision.build.audit import compare_module
from provision.build.plan import BuildPlan
from provision.build.spec import parse_build_spec
from provision.errors import BuildError
from provision.findings import Level
from provision.wheel.consistency import compare_inspection
from provision.wheel.inspect import read_inspection, read_module
from provision.wheel.manifest import WheelManifest
from provision.wheel.ops import OPS, find_ops

pytestmark = pytest.mark.timeout(1800)

KERNEL = "__global__ void scale(float *x) { x[threadIdx.x] *= 2; }\n"


def test_requested_op_that_is_incompatible_is_dropped(
    source: Path, builds: Path, tmp_path: Path, planned
) -> None:
    builder = source / "op_builder" / "pin_memory.py"
    refuse = "\n    def is_compatible(self, verbose=False):\n        return False\n"
    builder.write_text(builder.read_text() + refuse)
    spec = parse_build_spec(
        accelerator="cpu", ops="pin_memory", source=str(source), out=str(tmp_path / "out")
    )
    with pytest.raises(BuildError) as caught:
        apply_build(planned(spec, builds), print)
    # DeepSpeed's setup.py ended well, with a wheel that holds nothing.
    assert "found tags py3-none-any" in str(caught.value) or "left out" in str(caught.value)
    assert not spec.out.exists()


def test_a_build_that_names_no_op_holds_none(source: Path, plan: BuildPlan, tmp_path: Path) -> None:
    python = plan.environment_path / "bin" / "python"
    subprocess.run(
        [python, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source],
        env={"DS_ACCELERATOR": "cpu", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    (upstreams,) = (tmp_path / "dist").glob("*.whl")
    found = read_inspection(upstreams, plan.toolchain.objdump)
    assert found.contents.tags == ("py3-none-any",)
    assert (found.contents.modules, found.isa, found.glibc) == ({}, None, None)
    (finding,) = compare_inspection(found, None).findings
    assert (finding.level, finding.found) == (Level.NOTE, "none")


def test_login_node_without_a_gpu_makes_a_cpu_wheel(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited
) -> None:
    # What a build for GPUs becomes when nothing says DS_ACCELERATOR=cuda: this very wheel.
    cuda = replace(plan, spec=replace(plan.spec, accelerator="cuda", archs=("8.0",)))
    with pytest.raises(BuildError, match="built for accelerator cpu, expected cuda"):
        audited(cuda, plan.spec.out / wheel.wheel, tmp_path)
    assert plan.compile.environ["DS_ACCELERATOR"] == "cpu"  # never left to DeepSpeed


def test_wheel_of_another_accelerator_is_compiled_again_at_run_time(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited, changed
) -> None:
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        record = "deepspeed/git_version_info_installed.py"
        files[record] = files[record].replace(b"accelerator_name='cpu'", b"accelerator_name='cuda'")
    with pytest.raises(BuildError, match="built for accelerator cuda, expected cpu"):
        audited(plan, copy, tmp_path)


def test_ds_report_calls_an_op_okay_that_does_not_load(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited, changed
) -> None:
    broken = tmp_path / "broken.so"
    subprocess.run(
        [plan.toolchain.compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", broken],
        input='extern "C" int io_submit(); extern "C" void* PyInit_x() { io_submit(); return 0; }',
        text=True,
        check=True,
    )
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        (name,) = [name for name in files if name.startswith(OPS["cpu_adam"].module_path)]
        files[name] = broken.read_bytes()
    with pytest.raises(BuildError, match=r"op cpu_adam: .*undefined symbol: io_submit"):
        audited(plan, copy, tmp_path)
    report = subprocess.run(
        [tmp_path / "fresh" / "bin" / "python", "-m", "deepspeed.env_report"],
        env={"DS_ACCELERATOR": "cpu", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in report.stdout.splitlines() if line.startswith("cpu_adam")]
    assert "YES" in line
    assert "OKAY" in line


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_no_arch_list_compiles_for_gpus_that_nobody_named(plan: BuildPlan, tmp_path: Path) -> None:
    (tmp_path / "x.cu").write_text(KERNEL)
    module = tmp_path / "fused_adam_op.so"
    code = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in ("75", "80")]
    nvcc = ["nvcc", "-shared", "-Xcompiler", "-fPIC", *code, "x.cu", "-o", str(module)]
    subprocess.run(nvcc, cwd=tmp_path, check=True)
    found = read_module("fused_adam", module, plan.toolchain.objdump)
    cuda = replace(
        plan.spec, accelerator="cuda", ops=find_ops(["fused_adam"], "cuda"), archs=("7.5", "8.0")
    )
    compare_module(found, cuda)
    with pytest.raises(BuildError, match=r"device code for 7\.5, 8\.0, expected 8\.0"):
        compare_module(found, replace(cuda, archs=("8.0",)))
    with pytest.raises(BuildError, match=r"expected 7\.5, 8\.0, PTX 8\.0"):
        compare_module(found, replace(cuda, archs=("7.5", "8.0+PTX")))
