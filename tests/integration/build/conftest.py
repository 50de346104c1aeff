"""One real CPU build per session (or per ZEROFLEET_TEST_CACHE), for all tests of this folder.

ZEROFLEET_BUILDS=all runs what CI's minutes have no room for, too.
"""

from __future__ import annotations

import gc
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from invoke.context import Context

from provision.build.apply import apply_build
from provision.build.audit import Audit, apply_audit
from provision.build.cache import cache_dir
from provision.build.commands import site_packages
from provision.build.compare import compare_toolchain
from provision.build.plan import BuildPlan, plan_build
from provision.build.source import apply_unpack
from provision.build.spec import BuildSpec, parse_build_spec
from provision.build.state import read_state
from provision.build.toolchain import read_toolchain
from provision.wheel.manifest import WheelManifest, read_wheel

#: What runs with ZEROFLEET_BUILDS=all only: a build that shows what DeepSpeed's own does.
LONG = {"test_what_native_means_on_a_machine_with_avx512_dies_on_one_without"}
Planned = Callable[[BuildSpec, Path], BuildPlan]
Audited = Callable[[BuildPlan, Path, Path], Audit]
Changed = Callable[[Path, Path], AbstractContextManager[tuple[Path, dict[str, bytes]]]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if os.environ.get("ZEROFLEET_BUILDS") == "all":
        return
    left_out = [item for item in items if item.name in LONG]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def builds(cache: Path) -> Path:
    """The build cache."""
    return cache_dir({"XDG_CACHE_HOME": str(cache / "xdg")})


@pytest.fixture(scope="session")
def planned() -> Planned:
    """``planned(spec, builds)``: the plan, from what is there now."""

    def planned(spec: BuildSpec, builds: Path) -> BuildPlan:
        with warnings.catch_warnings():
            # Invoke leaves its pipes to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            toolchain = read_toolchain(Context(), spec, builds)
            gc.collect()
        report = compare_toolchain(spec, toolchain)
        assert report.ok, report.failing
        return plan_build(spec, toolchain, read_state(spec, toolchain, builds))

    return planned


@pytest.fixture(scope="session")
def plan(builds: Path, cache: Path, planned: Planned) -> BuildPlan:
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
    archive = plan.state.layout.sources / plan.source.sha256 / plan.source.name
    apply_unpack(archive, tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture(scope="session")
def audited() -> Audited:
    """``audited(plan, wheel, work)``: the proof of a wheel, as a build makes it."""

    def audited(plan: BuildPlan, wheel: Path, work: Path) -> Audit:
        return apply_audit(
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

    return audited


@pytest.fixture(scope="session")
def changed() -> Changed:
    """``with changed(wheel, folder) as (copy, files)``: a copy whose files may be changed."""

    @contextmanager
    def changed(wheel: Path, folder: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        copy = folder / wheel.name
        yield copy, files
        with zipfile.ZipFile(copy, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return changed
