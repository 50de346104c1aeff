from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.cache import Layout, key_of
from provision.build.environment import environment_path
from provision.build.plan import build_string, plan_build
from provision.build.source import Source
from provision.build.spec import parse_build_spec
from provision.build.state import wheel_facts
from provision.errors import ConfigError

OWN = Source(name="DeepSpeed", version="0.20.0", sha256="0123456789" * 6, path=Path("/src/ds"))


def test_everything_to_do(spec, make_toolchain, make_state) -> None:
    plan = plan_build(spec, make_toolchain(), make_state())
    assert str(plan.steps).replace(str(spec.out), "OUT") == (
        """\
build deepspeed 0.19.8+torch2.13.cpu.x86v3:
  environment
    this machine: make a build environment: Python 3.11.7, build.lock, torch 2.13.0  \
# none for these in /cache/environments
  source
    this machine: fetch deepspeed-0.19.8.tar.gz through pip  # sha256 cdcdcdcdcdcd…
  compile
    this machine: compile cpu_adam, shm_comm for x86-64-v3, 8 at a time  \
# so that no host compiles anything
  audit
    this machine: load every op in a fresh environment with DeepSpeed's own compiling turned off  \
# DeepSpeed drops ops silently, and its ds_report never loads one
  publish
    this machine: write the wheel and its manifest to OUT/  # for deploy"""
    )


def test_less_to_do(spec, make_toolchain, make_state, make_manifest, environment) -> None:
    def phases(**changes) -> list[str]:
        plan = plan_build(spec, make_toolchain(), make_state(environment=environment, **changes))
        return [phase.name for phase in plan.steps.phases]

    assert phases() == ["source", "compile", "audit", "publish"]
    assert phases(kept=make_manifest()) == ["publish"]
    assert phases(kept=make_manifest(), published=make_manifest()) == []


def test_compilation_is_pinned_down(make_toolchain, make_state) -> None:
    spec = parse_build_spec(accelerator="cpu", ops="async_io,cpu_adam")
    environ = {
        "HOME": "/home/me",
        "PATH": "/usr/bin",
        "CCACHE_DIR": "/ccache",
        "CFLAGS": "-march=native",
        "DS_BUILD_OPS": "1",
        "DS_BUILD_UTILS": "1",
        "TORCH_CUDA_ARCH_LIST": "8.0",
        "PYTHONPATH": "/mine",
    }
    plan = plan_build(spec, make_toolchain(), make_state(environ=environ))
    env = str(plan.environment_path)
    assert plan.compile.argv == (
        f"{env}/bin/python", "-m", "build", "--wheel", "--no-isolation",
        "--outdir", "/cache/work/dist", "/cache/work/source",
    )  # fmt: skip
    assert dict(plan.compile.environ) == {
        "HOME": "/home/me",
        "CCACHE_DIR": "/ccache",
        "CCACHE_COMPILERCHECK": "content",
        "PATH": f"{env}/bin:/usr/bin",
        "VIRTUAL_ENV": env,
        "LC_ALL": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": "/cache/work/python",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": "315532800",
        "CXX": "/cache/work/bin/g++",
        "CFLAGS": "-ffile-prefix-map=/cache/work/source=/deepspeed "
        f"-ffile-prefix-map={env}/lib/python3.11/site-packages=/site-packages "
        "-ffile-prefix-map=/usr/include/python3.11=/python",
        "LDFLAGS": "-Wl,--strip-debug",
        "MAX_JOBS": "8",
        "DS_ENABLE_NINJA": "1",
        "DS_ACCELERATOR": "cpu",
        "DS_BUILD_STRING": "+torch2.13.cpu.x86v3.asyncio.cpuadam.pinmemory",
        "DS_BUILD_OPS": "0",
        "DS_BUILD_AIO": "1",
        "DS_BUILD_CPU_ADAM": "1",
        "DS_BUILD_PIN_MEMORY": "1",
    }
    assert "-march=native) arg=-march=x86-64-v3" in plan.wrapper
    assert '"/async_io_op."*) set -- "$@" -laio' in plan.wrapper


def test_gpu_code_is_compiled_with_the_toolkit_and_the_pinned_compiler(
    cuda_spec, make_toolchain, make_state, make_cuda
) -> None:
    environ = {"CUDA_HOME": "/mine", "TORCH_CUDA_ARCH_LIST": "7.0", "NVCC_APPEND_FLAGS": "-G",
               "PATH": "/usr/bin"}  # fmt: skip
    toolchain = make_toolchain(cuda=make_cuda())
    plan = plan_build(cuda_spec, toolchain, make_state(environ=environ))
    given = plan.compile.environ
    assert given["DS_ACCELERATOR"] == "cuda"
    assert given["CUDA_HOME"] == str(plan.cuda_home) == "/cache/work/cuda"
    assert given["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert given["DS_NVCC_THREADS"] == "2"
    flags = given["NVCC_APPEND_FLAGS"].split()
    assert flags[:4] == ["--objdir-as-tempdir", "--frandom-seed=deepspeed",
                         "-ccbin", "/cache/work/bin/g++"]  # fmt: skip
    assert "-Xcompiler=-ffile-prefix-map=/cache/work/source=/deepspeed" in flags
    assert {name for name in given if name.startswith("DS_BUILD_")} == {
        "DS_BUILD_STRING", "DS_BUILD_OPS", "DS_BUILD_CPU_ADAM", "DS_BUILD_FUSED_ADAM",
        "DS_BUILD_UTILS",
    }  # fmt: skip
    assert plan.make_environment[2].argv[-1] == "torch==2.13.0,!=2.13.0+cpu"
    assert plan.fetch_toolkit is None
    assert "take CUDA 13.0.88 (/usr/local/cuda)  # torch has CUDA 13.0" in str(plan.steps)
    assert "compile cpu_adam, fused_adam, utils for 8.0 9.0+PTX and x86-64-v3" in str(plan.steps)


def test_nvcc_as_packages_is_fetched_once(cuda_spec, make_toolchain, make_state, make_cuda) -> None:
    home = Path("/cache/toolkits/cuda-13.0-ab/nvidia/cu13")
    packages = replace(make_cuda().toolkit, home=home, lock=Path("/locks/cuda-13.0.lock"))
    toolchain = make_toolchain(cuda=make_cuda(toolkit=packages, torch_read=False))
    plan = plan_build(cuda_spec, toolchain, make_state())
    assert "fetch CUDA 13.0.88 (packages of cuda-13.0.lock)  # torch comes with" in str(plan.steps)
    argv = plan.fetch_toolkit.argv
    assert argv[argv.index("--target") + 1] == "/cache/toolkits/cuda-13.0-ab.new"
    assert {"--require-hashes", "--no-deps", "/locks/cuda-13.0.lock"} <= set(argv)
    there = plan_build(cuda_spec, toolchain, make_state(toolkit_there=True))
    assert "take CUDA 13.0.88 (packages" in str(there.steps)


def test_a_build_of_torch_that_is_named_is_what_pip_is_asked_for(
    make_toolchain, make_state, make_cuda
) -> None:
    spec = parse_build_spec(arch="7.0", torch="2.13.0+cu126")
    toolchain = make_toolchain(cuda=make_cuda(torch_cuda="12.6"))
    plan = plan_build(spec, toolchain, make_state())
    assert plan.make_environment[2].argv[-1] == "torch==2.13.0+cu126"
    assert plan.version == "0.19.8+torch2.13.cu126.sm70.x86v3"


def test_pip_keeps_the_users_configuration_and_loses_what_would_mislead_it(
    spec, make_toolchain, make_state
) -> None:
    environ = {
        "PIP_INDEX_URL": "https://me:secret@mirror/x",
        "PIP_TARGET": "/t",
        "PYTHONPATH": "/p",
    }
    plan = plan_build(spec, make_toolchain(), make_state(environ=environ))
    for command in (*plan.make_environment, plan.fetch):
        assert command.environ["PIP_INDEX_URL"] == environ["PIP_INDEX_URL"]
        assert not {"PIP_TARGET", "PYTHONPATH"} & command.environ.keys()
        assert "secret" not in repr(command)
    assert "secret" not in repr(plan)
    assert "--require-hashes" in plan.make_environment[1].argv
    assert plan.make_environment[2].argv[-1] == "torch==2.13.0"
    assert {"--require-hashes", "--no-build-isolation", "--no-deps"} <= set(plan.fetch.argv)


@pytest.mark.parametrize(
    ("flags", "source", "string"),
    [
        ({}, None, "+torch2.13.cpu.x86v3"),
        ({"cpu": "x86-64-v4", "torch": "2.9.1+cpu"}, None, "+torch2.9.cpu.x86v4"),
        ({"source": "/src/ds"}, OWN, "+torch2.13.cpu.x86v3.src01234567"),
        ({"ops": "shm_comm,cpu_adam"}, None, "+torch2.13.cpu.x86v3"),
        ({"ops": "cpu_adam"}, None, "+torch2.13.cpu.x86v3.cpuadam"),
        ({"ops": "async_io,cpu_adam"}, None, "+torch2.13.cpu.x86v3.asyncio.cpuadam.pinmemory"),
        ({"ops": "all"}, None, "+torch2.13.cpu.x86v3.ops7xHASH"),
        ({"arch": "9.0+PTX,A100"}, None, "+torch2.13.cu130.sm80.sm90ptx.x86v3"),
        ({"arch": "12.0", "cpu": "v4"}, None, "+torch2.13.cu130.sm120.x86v4"),
        ({"arch": "8.0", "ops": "fused_adam"}, None, "+torch2.13.cu130.sm80.x86v3.fusedadam"),
    ],
)
def test_build_string(make_state, flags, source, string) -> None:
    spec = parse_build_spec(**({} if "arch" in flags else {"accelerator": "cpu"}), **flags)
    names = hashlib.sha256(",".join(spec.op_names).encode()).hexdigest()[:8]
    string = string.replace("HASH", names)
    assert build_string(spec, source or make_state().source, "13.0") == string
    assert str(Version("0.19.8" + string)) == "0.19.8" + string


def test_own_source_is_unpacked_not_fetched(make_toolchain, make_state) -> None:
    spec = parse_build_spec(accelerator="cpu", source="/src/ds")
    plan = plan_build(spec, make_toolchain(), make_state(source=OWN))
    assert "unpack /src/ds" in str(plan.steps)
    assert "fetch" not in str(plan.steps)
    assert plan.version.startswith("0.20.0+")


def test_places_that_cannot_be_built_in(spec, make_toolchain, make_state) -> None:
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        plan_build(spec, make_toolchain(), make_state(layout=Layout(root=Path("/my cache"))))
    local = replace(OWN, version="0.20.0+mine")
    with pytest.raises(ConfigError, match="without a local part"):
        plan_build(spec, make_toolchain(), make_state(source=local))
    with pytest.raises(ConfigError, match="which does not run"):
        plan_build(spec, make_toolchain(python=None), make_state())


def test_a_cuda_torch_has_an_environment_of_its_own(spec, cuda_spec, make_toolchain) -> None:
    python, layout = make_toolchain().python, Layout(root=Path("/cache"))
    names = [environment_path(one, python, layout, "12").name for one in (spec, cuda_spec)]
    assert names[0].startswith("cp311-torch2.13.0-")
    assert names[1].startswith("cp311-torch2.13.0-cuda-")


def test_environment_path_tells_what_it_is(spec, make_toolchain) -> None:
    python, layout = make_toolchain().python, Layout(root=Path("/cache"))
    path = environment_path(spec, python, layout, "12")
    assert path.name.startswith("cp311-torch2.13.0-")
    others = (
        environment_path(spec, python, layout, "34"),
        environment_path(spec, replace(python, version=Version("3.11.8")), layout, "12"),
        environment_path(parse_build_spec(accelerator="cpu", torch="2.12.0"), python, layout, "12"),
    )
    assert len({path, *others}) == 4


def test_a_wheels_key_sees_gpus_and_toolkit(make_toolchain, make_state, environment, make_cuda):
    def key(arch="8.0", **parts):
        toolkit = replace(make_cuda().toolkit, parts={**make_cuda().toolkit.parts, **parts})
        toolchain = make_toolchain(cuda=make_cuda(toolkit=toolkit))
        spec = parse_build_spec(arch=arch)
        return key_of(wheel_facts(spec, make_state().source, toolchain, environment, "12"))

    keys = [key(), key("8.0+PTX"), key("8.0;9.0"), key(nvcc="13.0.99"), key(crt="cd")]
    assert len(set(keys)) == len(keys)
    assert key("A100") == keys[0]


def test_a_wheels_key_sees_whatever_decides_the_content(make_toolchain, make_state, environment):
    source = make_state().source

    def key(flags=None, *, source=source, toolchain=None, environment=environment, lock="12"):
        spec = parse_build_spec(accelerator="cpu", **(flags or {}))
        return key_of(wheel_facts(spec, source, toolchain or make_toolchain(), environment, lock))

    other_torch = replace(environment.requires[0], sha256="00" * 32)
    python = replace(make_toolchain().python, version=Version("3.12.1"))
    keys = [
        key(),
        key({"ops": "cpu_adam"}),
        key({"cpu": "x86-64-v4"}),
        key(source=OWN),
        key(toolchain=make_toolchain(compiler_version=Version("13.1.0"))),
        key(toolchain=make_toolchain(python=python)),
        key(environment=replace(environment, torch="2.13.0+cu130")),
        key(environment=replace(environment, requires=(other_torch,))),
        key(lock="34"),
        key(toolchain=make_toolchain(objdump="")),
    ]
    assert len(set(keys)) == len(keys)
    assert key({"jobs": 1, "out": "/elsewhere"}) == keys[0]
    assert key({"ops": "shm_comm,cpu_adam"}) == keys[0]
