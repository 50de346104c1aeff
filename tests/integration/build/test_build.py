"""The real build: once per session, or once per ZEROFLEET_TEST_CACHE."""

from __future__ import annotations

import ast
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.apply import apply_build
from provision.build.plan import BuildPlan
from provision.build.spec import parse_build_spec
from provision.errors import BuildError
from provision.wheel.manifest import WheelManifest, read_wheel
from provision.wheel.ops import OPS

pytestmark = pytest.mark.timeout(1800)  # torch's download, and minutes of compiling


def test_default_wheel(wheel: WheelManifest, plan: BuildPlan) -> None:
    assert wheel.ops == wheel.ops_asked == ("cpu_adam", "shm_comm")
    assert wheel.deepspeed == "0.19.8+torch2.13.cpu.x86v3"
    assert wheel.torch.startswith("2.13.0")
    assert wheel.python_tag == plan.python.tag
    assert (wheel.platform, wheel.cpu, wheel.arch_list) == ("linux_x86_64", "x86-64-v3", ())
    assert wheel.isa_checked is bool(plan.toolchain.objdump)
    assert wheel.glibc
    assert wheel.glibcxx
    assert wheel.size < 4_000_000  # with debug data it is 19 MB
    requires = {one.name: one for one in wheel.requires}
    assert requires["torch"].version == wheel.torch_dist
    assert {"sympy", "typing-extensions"} <= requires.keys()
    assert "deepspeed" not in requires


def test_no_path_of_this_machine_is_in_the_ops(wheel: WheelManifest, plan: BuildPlan) -> None:
    with zipfile.ZipFile(plan.spec.out / wheel.wheel) as archive:
        ops = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert len(ops) == 2
    own = (plan.state.layout.root, Path(plan.python.header).parent)
    assert not [path for path in own for op in ops if str(path).encode() in op]


def test_what_the_commands_say_of_it(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, zf_run
) -> None:
    path = plan.spec.out / wheel.wheel
    said = json.loads(zf_run(["inspect-wheel", str(path), "--json"], tmp_path).stdout)
    assert (said["ok"], said["findings"]) == (True, [])
    assert said["ops"] == said["requested_ops"] == list(wheel.ops)
    assert (said["isa"], said["archs"], said["ptx"]) == ("x86-64-v3", [], [])
    for key in ("sha256", "size", "glibc", "glibcxx", "accelerator"):
        assert said[key] == getattr(wheel, key)
    done = zf_run(["wheels", "--wheels", str(plan.spec.out), "--json"], tmp_path)
    listed = json.loads(done.stdout)["wheels"]
    ours = [one["where"] for one in listed if one["manifest"] == wheel.as_json()]
    assert ours[:2] == ["wheels", "cache"]
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[:-1000])
    done = zf_run(["inspect-wheel", str(cut)], tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_second_build_does_nothing(wheel: WheelManifest, plan: BuildPlan) -> None:
    assert plan.steps.empty
    said: list[str] = []
    again = apply_build(plan, said.append)
    assert again.cached
    assert again == wheel
    assert said == [f"nothing to do: {plan.spec.out / wheel.wheel} is that wheel already"]


def test_emptied_folder_gets_the_kept_wheel(
    wheel: WheelManifest, builds: Path, tmp_path: Path, planned
) -> None:
    spec = parse_build_spec(accelerator="cpu", out=str(tmp_path / "elsewhere"))
    plan = planned(spec, builds)
    assert [phase.name for phase in plan.steps.phases] == ["publish"]
    assert apply_build(plan, print).cached
    assert read_wheel(spec.out) == wheel
    (spec.out / wheel.wheel).write_bytes(b"damaged")
    assert apply_build(planned(spec, builds), print) == wheel
    assert read_wheel(spec.out) == wheel


def test_wheel_without_an_op_is_refused(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited, changed
) -> None:
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        (name,) = [name for name in files if name.startswith(OPS["shm_comm"].module_path)]
        del files[name]
    with pytest.raises(BuildError, match="op shm_comm without its module"):
        audited(plan, copy, tmp_path)


def test_op_that_deepspeed_would_compile_again_is_refused(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited, changed
) -> None:
    # As for a wheel whose accelerator is not the one at run time: every op falls back, silently.
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        builder = "deepspeed/ops/op_builder/builder.py"
        files[builder] = files[builder].replace(
            b"accelerator_name == get_accelerator()._name", b"0"
        )
    with pytest.raises(BuildError, match=r"op cpu_adam: .* DeepSpeed would compile it here"):
        audited(plan, copy, tmp_path)


def test_op_above_the_cpu_level_is_refused(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path, audited, monkeypatch
) -> None:
    if not plan.toolchain.objdump:
        pytest.fail("install binutils: the audit is to be tested with objdump")
    # shm_comm has AVX-512 code, which it guards at run time: without that leave it is refused.
    strict = {name: replace(op, guarded=()) for name, op in OPS.items()}
    monkeypatch.setattr("provision.wheel.inspect.OPS", strict)
    with pytest.raises(BuildError, match=r"op shm_comm: v\w+ .*zmm.* in reduce_"):
        audited(plan, plan.spec.out / wheel.wheel, tmp_path)


def test_source_that_does_not_compile(
    source: Path,
    builds: Path,
    tmp_path: Path,
    planned,
) -> None:
    for path in source.glob("csrc/pin_memory/*.cpp"):
        path.write_text("int broken() { return 1 }\n")
    spec = parse_build_spec(
        accelerator="cpu", ops="pin_memory", source=str(source), out=str(tmp_path / "out")
    )
    plan = planned(spec, builds)
    with pytest.raises(BuildError) as caught:
        apply_build(plan, print)
    assert caught.value.exit_code == 4
    assert ".cpp:1:24: error: expected ‘;’ before ‘}’ token" in caught.value.found
    assert "csrc/pin_memory/" in caught.value.found
    assert str(plan.log) in caught.value.remedy
    assert "ninja: build stopped" in plan.log.read_text()
    assert not spec.out.exists()


def test_interrupt_leaves_no_compiler_and_no_half_wheel(
    source: Path, builds: Path, tmp_path: Path, planned
) -> None:
    (source / "version.txt").write_text("0.19.8.post1\n")
    spec = parse_build_spec(
        accelerator="cpu", ops="pin_memory", source=str(source), out=str(tmp_path / "out")
    )
    plan = planned(spec, builds)

    def interrupt(line: str) -> None:
        if line.startswith("compiling pin_memory"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_build(plan, interrupt)
    assert not spec.out.exists()
    own = str(plan.state.layout.work).encode()
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if own in read_bytes(p)]
    assert running == []


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended
        return b""


def test_ops_table_is_the_sources(source: Path) -> None:
    found = set()
    for path in (*source.glob("op_builder/*.py"), *source.glob("op_builder/cpu/*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                values = {
                    target.id: item.value.value
                    for item in node.body
                    if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
                    for target in item.targets
                    if isinstance(target, ast.Name)
                }
                if "BUILD_VAR" in values:
                    found.add((node.name, values["BUILD_VAR"], values["NAME"]))
    for op in OPS.values():
        for builder in op.builders.values():
            assert (builder, op.flag, op.installed_name) in found
