"""Environments and toolkits, provided by commands that write what pip would."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.cache import Layout
from provision.build.environment import MARKER, read_environment
from provision.build.plan import BuildPlan, plan_build
from provision.build.provide import apply_cuda_home, apply_environment
from provision.errors import BuildError
from provision.process import Command


def shell(script: str) -> Command:
    return Command(argv=("/bin/sh", "-ec", script), environ={"PATH": "/usr/bin:/bin"})


def writing(path: Path, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    folder, content = shlex.quote(str(path.parent)), shlex.quote(text)
    return f"mkdir -p {folder}; printf %s {content} > {shlex.quote(str(path))}"


@pytest.fixture
def plan(cuda_spec, make_toolchain, make_state, make_cuda, tmp_path) -> BuildPlan:
    """A CUDA build in a cache below tmp_path; pip is yet to run."""
    toolchain = make_toolchain(cuda=make_cuda(torch_read=False))
    state = make_state(layout=Layout(root=tmp_path / "cache"))
    made = plan_build(cuda_spec, toolchain, state)
    made.log.parent.mkdir(parents=True)
    return made


def bringing(plan: BuildPlan, torch: str, cuda: str | None) -> BuildPlan:
    """The plan with commands that leave what pip does when it brings this torch."""
    path = plan.environment_path
    item = {
        "metadata": {"name": "torch", "version": torch},
        "download_info": {"archive_info": {"hashes": {"sha256": "ab" * 32}}},
    }
    reports = (
        {"environment": {}, "install": []},
        {"environment": {}, "install": [item]},
    )
    facts = {"torch": torch, "torch_cuda": cuda, "torch_dist": torch, "names": ["torch"]}
    return replace(
        plan,
        make_environment=(
            shell("true"),
            shell(writing(path / "locked.json", reports[0])),
            shell(writing(path / "torch.json", reports[1])),
        ),
        facts=shell(f"echo 'zerofleet-facts {json.dumps(facts)}'"),
    )


def provided(plan: BuildPlan) -> object:
    with plan.log.open("w") as log:
        return apply_environment(plan, log, lambda _line: None)


def test_the_torch_that_was_planned_for(plan: BuildPlan) -> None:
    made = provided(bringing(plan, "2.13.0+cu130", "13.0"))
    assert read_environment(plan.environment_path) == made


def test_a_torch_without_cuda_is_no_environment_for_gpus(plan: BuildPlan) -> None:
    with pytest.raises(BuildError) as caught:
        provided(bringing(plan, "2.13.0", None))
    assert str(caught.value) == (
        "pip install 'torch==2.13.0,!=2.13.0+cpu': found torch 2.13.0, which has no CUDA, expected "
        "a torch with CUDA, for --arch 8.0;9.0+PTX: let pip see an index with CUDA builds, or name "
        "one: --torch 2.13.0+cu130"
    )
    # pip, configured otherwise, may bring another: the next build asks it again.
    assert not (plan.environment_path / MARKER).exists()


def test_a_torch_of_another_cuda_is_kept_and_known_to_the_next_build(plan: BuildPlan) -> None:
    with pytest.raises(BuildError, match=r"found torch .* with CUDA 12.8, expected CUDA 13.0"):
        provided(bringing(plan, "2.13.0+cu128", "12.8"))
    kept = read_environment(plan.environment_path)
    assert kept is not None
    assert kept.torch_cuda == "12.8"


@pytest.fixture
def environment(plan: BuildPlan) -> object:
    """That torch's environment, with what its CUDA packages hold."""
    made = provided(bringing(plan, "2.13.0+cu130", "13.0"))
    packages = plan.environment_path / "lib" / "python3.11" / "site-packages" / "nvidia" / "cu13"
    headers = ("cuda_runtime.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h", "curand_kernel.h")
    for name in (*(f"include/{one}" for one in headers),
                 "lib/libcudart.so.13", "lib/libcurand.so.10"):  # fmt: skip
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch()
    return made


def fetching(plan: BuildPlan, *parts: str, end: str = "true") -> BuildPlan:
    """The plan with a toolkit of packages, whose fetching leaves these files."""
    folder = plan.state.layout.root / "toolkits" / "cuda-13.0-ab"
    assert plan.toolkit is not None
    assert plan.toolchain.cuda is not None
    toolkit = replace(plan.toolkit, home=folder / "nvidia" / "cu13", lock=Path("cuda-13.0.lock"))
    home = folder.with_name("cuda-13.0-ab.new") / "nvidia" / "cu13"
    cuda = replace(plan.toolchain.cuda, toolkit=toolkit)
    script = "; ".join([*(writing(home / part, part) for part in parts), end])
    return replace(plan, toolchain=replace(plan.toolchain, cuda=cuda), fetch_toolkit=shell(script))


PARTS = ("bin/nvcc", "bin/ptxas", "nvvm/bin/cicc", "include/crt/host_config.h",
         "include/cccl/thrust/complex.h")  # fmt: skip


def test_a_toolkit_of_packages_is_fetched_once_and_completed_from_torchs(
    plan: BuildPlan, environment
) -> None:
    whole = fetching(plan, *PARTS)
    apply_cuda_home(whole, environment, io.StringIO(), lambda _line: None)
    assert (whole.cuda_home / "nvvm" / "bin" / "cicc").read_text() == "nvvm/bin/cicc"
    assert (whole.cuda_home / "include" / "cusparse.h").is_file()
    assert (whole.cuda_home / "bin" / "nvcc").read_text().startswith("#!/bin/sh")
    again = replace(whole, fetch_toolkit=shell("exit 1"))
    shutil.rmtree(whole.cuda_home)
    apply_cuda_home(again, environment, io.StringIO(), lambda _line: None)
    assert (whole.cuda_home / "bin" / "nvcc").is_file()


def test_a_toolkit_that_does_not_come_leaves_nothing(plan: BuildPlan, environment) -> None:
    broken = fetching(plan, *PARTS, end="echo 'ERROR: no route to host'; exit 1")
    with broken.log.open("w") as log, pytest.raises(BuildError) as caught:
        apply_cuda_home(broken, environment, log, lambda _line: None)
    assert "pip install -r cuda-13.0.lock: found ERROR: no route to host" in str(caught.value)
    assert not list((plan.state.layout.root / "toolkits").iterdir())


def test_what_is_in_neither_is_named(plan: BuildPlan, environment) -> None:
    with pytest.raises(BuildError, match=r"found no nvvm/bin/cicc, no include/crt/host_config\.h"):
        apply_cuda_home(
            fetching(plan, "bin/nvcc", "bin/ptxas", PARTS[-1]),
            environment,
            io.StringIO(),
            lambda _line: None,
        )
