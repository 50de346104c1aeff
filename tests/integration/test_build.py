"""The real build: once per session, or once per ZEROFLEET_TEST_CACHE."""

from __future__ import annotations

import ast
import gc
import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from invoke.context import Context

from provision.build.apply import apply_build
from provision.build.audit import apply_audit
from provision.build.cache import cache_dir
from provision.build.commands import site_packages
from provision.build.compare import compare_toolchain
from provision.build.manifest import WheelManifest, read_wheel
from provision.build.ops import OPS
from provision.build.plan import BuildPlan, plan_build
from provision.build.source import apply_unpack
from provision.build.spec import BuildSpec, parse_build_spec
from provision.build.state import read_state
from provision.build.toolchain import read_toolchain
from provision.errors import BuildError

pytestmark = pytest.mark.timeout(1800)  # torch's download, and minutes of compiling


@pytest.fixture(scope="session")
def builds(cache: Path) -> Path:
    """The build cache."""
    return cache_dir({"XDG_CACHE_HOME": str(cache / "xdg")})


def planned(spec: BuildSpec, builds: Path) -> BuildPlan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Invoke leaves its pipes to the collector
        toolchain = read_toolchain(Context(), spec, builds)
        gc.collect()
    report = compare_toolchain(spec, toolchain)
    assert report.ok, report.failing
    return plan_build(spec, toolchain, read_state(spec, toolchain, builds))


@pytest.fixture(scope="session")
def plan(builds: Path, cache: Path) -> BuildPlan:
    """The default CPU build's plan, made after that build."""
    spec = parse_build_spec(accelerator="cpu", out=str(cache / "wheels"))
    apply_build(planned(spec, builds), print)
    return planned(spec, builds)


@pytest.fixture(scope="session")
def wheel(plan: BuildPlan) -> WheelManifest:
    return read_wheel(plan.spec.out)


@pytest.fixture
def source(plan: BuildPlan, tmp_path: Path) -> Path:
    """DeepSpeed's source, to be broken."""
    assert plan.state.archive
    apply_unpack(plan.state.archive, tmp_path / "source")
    return tmp_path / "source"


def audit(plan: BuildPlan, wheel: Path, work: Path) -> None:
    apply_audit(
        wheel,
        spec=plan.spec,
        python=plan.python.executable,
        torch_packages=site_packages(plan.environment_path, plan.python),
        objdump=plan.toolchain.objdump,
        places=(plan.state.layout.root,),
        work=work,
        log=io.StringIO(),
        say=print,
    )


@contextmanager
def changed(wheel: Path, folder: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A copy of a wheel whose files may be changed in the with-block."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    copy = folder / wheel.name
    yield copy, files
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


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


def test_second_build_does_nothing(wheel: WheelManifest, plan: BuildPlan) -> None:
    assert plan.steps.empty
    said: list[str] = []
    again = apply_build(plan, said.append)
    assert again.cached
    assert again == wheel
    assert said == [f"nothing to do: {plan.spec.out / wheel.wheel} is that wheel already"]


def test_emptied_folder_gets_the_kept_wheel(
    wheel: WheelManifest, builds: Path, tmp_path: Path
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
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path
) -> None:
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        (name,) = [name for name in files if name.startswith(OPS["shm_comm"].module_path)]
        del files[name]
    with pytest.raises(BuildError, match="op shm_comm without its module"):
        audit(plan, copy, tmp_path)


def test_op_that_deepspeed_would_compile_again_is_refused(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path
) -> None:
    # As for a wheel whose accelerator is not the one at run time: every op falls back, silently.
    with changed(plan.spec.out / wheel.wheel, tmp_path) as (copy, files):
        builder = "deepspeed/ops/op_builder/builder.py"
        files[builder] = files[builder].replace(
            b"accelerator_name == get_accelerator()._name", b"0"
        )
    with pytest.raises(BuildError, match=r"op cpu_adam: .* DeepSpeed would compile it here"):
        audit(plan, copy, tmp_path)


def test_op_above_the_cpu_level_is_refused(
    wheel: WheelManifest, plan: BuildPlan, tmp_path: Path
) -> None:
    if not plan.toolchain.objdump:
        pytest.fail("install binutils: the audit is to be tested with objdump")
    # shm_comm has AVX-512 code, which it guards at run time: without that leave it is refused.
    ops = tuple(replace(op, guarded=()) for op in plan.spec.ops)
    strict = replace(plan, spec=replace(plan.spec, ops=ops))
    with pytest.raises(BuildError, match=r"op shm_comm: v\w+ .*zmm.* in reduce_"):
        audit(strict, plan.spec.out / wheel.wheel, tmp_path)


def test_source_that_does_not_compile(source: Path, builds: Path, tmp_path: Path) -> None:
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
    source: Path, builds: Path, tmp_path: Path
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
