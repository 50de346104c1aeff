from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.spec import RELEASES, parse_build_spec
from provision.errors import ConfigError


def test_defaults() -> None:
    spec = parse_build_spec(accelerator="cpu")
    assert spec.op_names == spec.ops_asked == ("cpu_adam", "shm_comm")
    assert spec.torch == Version("2.13.0")
    assert spec.version in RELEASES
    assert (spec.source, spec.cpu.name, spec.jobs) == (None, "x86-64-v3", None)
    assert spec.out == Path("wheels")


def test_everything_given() -> None:
    spec = parse_build_spec(
        accelerator="cpu",
        ops=" async_io, cpu_adam,cpu_adam,",
        torch="2.13.0+cpu",
        source="~/DeepSpeed",
        cpu="x86-64-v4",
        out="/somewhere/else",
        jobs="3",
        python="python3.12",
    )
    assert spec.ops_asked == ("async_io", "cpu_adam")
    assert spec.op_names == ("async_io", "cpu_adam", "pin_memory")
    assert spec.torch.local == "cpu"
    assert spec.source == Path.home() / "DeepSpeed"
    assert spec.version is None
    assert (spec.cpu.tag, spec.jobs, spec.python) == ("x86v4", 3, "python3.12")


def test_naming_gpus_is_asking_for_cuda() -> None:
    spec = parse_build_spec(arch="H100+PTX, A100")
    assert (spec.accelerator, spec.archs) == ("cuda", ("8.0", "9.0+PTX"))
    assert spec.op_names == ("cpu_adam", "fused_adam", "utils")
    assert spec.toolkit == "auto"
    assert parse_build_spec(accelerator="cuda", arch="8.0", toolkit="pypi").toolkit == "pypi"
    assert parse_build_spec(accelerator="cpu").archs == ()


def test_all_ops() -> None:
    spec = parse_build_spec(arch="8.0", ops="all")
    assert spec.ops_asked == ("all",)
    assert {"async_io", "cpu_adam", "fused_lamb", "utils"} < set(spec.op_names)
    assert not {"cutlass_ops", "shm_comm"} & set(spec.op_names)


@pytest.mark.parametrize(
    ("cpu", "level"),
    [("auto", "x86-64-v3"), (None, "x86-64-v3"), ("v2", "x86-64-v2"), ("x86-64-v4", "x86-64-v4"),
     ("native", "x86-64-v4")],
)  # fmt: skip
def test_cpu_level(cpu, level) -> None:
    assert parse_build_spec(accelerator="cpu", cpu=cpu, native="x86-64-v4").cpu.name == level


def test_ops_as_a_list() -> None:
    assert parse_build_spec(accelerator="cpu", ops=["cpu_lion"]).op_names == ("cpu_lion",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accelerator": None}, "never guessed"),
        ({"accelerator": ""}, "never guessed"),
        ({"accelerator": "cuda"}, "nothing beside --accelerator cuda"),
        ({"accelerator": "npu"}, "found 'npu', expected cpu or cuda"),
        ({"arch": "8.0"}, "found '8.0' beside --accelerator cpu"),
        ({"accelerator": None, "arch": "8.4"}, "did you mean 8.6"),
        ({"toolkit": "pypi"}, "for the cpu accelerator"),
        ({"accelerator": "cuda", "arch": "8.0", "toolkit": "conda"}, "auto or system or pypi"),
        ({"accelerator": "cuda", "arch": "8.0", "torch": "2.13.0+cpu"}, "a torch with CUDA"),
        ({"ops": "cutlass_ops"}, "for cuda only"),
        ({"accelerator": "cuda", "arch": "8.0", "ops": "cutlass_ops"}, "deepspeed-kernels"),
        ({"accelerator": "cuda", "arch": "8.0", "ops": "shm_comm"}, "for cpu only"),
        ({"cpu": "native"}, "level could not be read"),
        ({"ops": ""}, "an empty list"),
        ({"ops": "utils"}, "for cuda only"),
        ({"torch": ">=2.13"}, "exact version"),
        ({"version": "0.19.7"}, r"pinned here: 0\.19\.8"),
        ({"version": "0.19.8", "source": "x"}, "beside --source"),
        ({"cpu": "haswell"}, "x86-64-v3 or x86-64-v4"),
        ({"jobs": "0"}, "whole number"),
        ({"jobs": "many"}, "whole number"),
    ],
)
def test_what_cannot_be_honoured_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_build_spec(**{"accelerator": "cpu", **changes})
