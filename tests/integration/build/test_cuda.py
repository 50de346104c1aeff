"""CUDA wheels on a machine without a GPU: what a user types, real builds, the proof."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import ZfRun

HOME = Path("/usr/local/cuda")
pytestmark = [
    pytest.mark.timeout(1800),  # a CUDA torch's download, and minutes of compiling
    pytest.mark.skipif(
        not (HOME / "bin" / "nvcc").is_file(),
        reason="needs nvcc in /usr/local/cuda: builds CUDA wheels with it, and without it",
    ),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="session")
def both(zf_run: ZfRun, cache: Path, folder: Path) -> dict[str, Any]:
    """``--arch "8.0;9.0+PTX"`` with the toolkit of this machine: the answer, and what was said."""
    wheels = str(cache / "wheels-cuda")
    done = zf_run(
        ["build-deepspeed", "--arch", "8.0;9.0+PTX", "--wheels", wheels, "--json"], folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout), "said": done.stderr}


def test_a_wheel_for_two_kinds_of_gpu(both: dict[str, Any]) -> None:
    manifest = both["manifest"]
    assert manifest["deepspeed"] == "0.19.8+torch2.13.cu130.sm80.sm90ptx.x86v3"
    assert manifest["accelerator"] == "cuda"
    assert manifest["ops"] == ["cpu_adam", "fused_adam", "utils"]
    assert manifest["arch_list"] == ["8.0", "9.0+PTX"]
    assert manifest["ptx"] == ["9.0"]
    assert manifest["archs_checked"] is True
    assert manifest["torch_cuda"] == "13.0"
    assert manifest["toolkit"].startswith("13.0.")
    assert manifest["size"] < 3_000_000
    assert not [one for one in manifest["requires"] if one["name"] == "deepspeed"]
    if not both["cached"]:  # else it was printed when an earlier run built it
        assert "proved: device code for 8.0, 9.0, PTX 9.0" in both["said"]
        assert "proved: cpu_adam agrees with torch.optim.AdamW" in both["said"]


def test_no_other_build_is_needed(both: dict[str, Any], zf_run: ZfRun, folder: Path) -> None:
    args = ["--arch", "h100+ptx,A100", "--wheels", str(Path(both["wheel"]).parent), "--json"]
    done = zf_run(["build-deepspeed", *args], folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cached"] is True


def test_nvcc_from_packages(both: dict[str, Any], zf_run: ZfRun, cache: Path, folder: Path) -> None:
    """Another toolkit, and so another build; the same release of nvcc makes the same code."""
    args = ["--arch", "8.0", "--ops", "fused_adam", "--toolkit", "pypi"]
    wheels = cache / "wheels-cuda-packages"
    environ = {"CUDA_HOME": "", "CUDA_PATH": ""}
    done = zf_run(
        ["build-deepspeed", *args, "--wheels", str(wheels), "--json"], folder, environ=environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["deepspeed"].endswith("+torch2.13.cu130.sm80.x86v3.fusedadam")
    assert (manifest["arch_list"], manifest["ptx"]) == (["8.0"], [])
    # The same toolchain for both: environment and sources are shared.
    assert manifest["requires"] == both["manifest"]["requires"]
    with zipfile.ZipFile(wheels / manifest["wheel"]) as archive:
        (op,) = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert str(cache).encode() not in op
    assert str(HOME).encode() not in op


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--arch", "7.0,A100"], 1, "the nearest here is 7.5; CUDA 11.8 to 12.9 compiles 7.0"),
        (["--arch", "rtx 4099"], 2, "did you mean RTX4090?"),
        (["--arch", "9.0a"], 2, "DeepSpeed's build can't read the 'a'"),
        (["--arch", "8.0", "--accelerator", "cpu"], 2, "beside --accelerator cpu"),
        (["--arch", "8.0", "--ops", "evoformer_attn"], 2, "CUTLASS"),
        (["--arch", "8.0", "--torch", "2.13.0+cu128", "--toolkit", "system"], 1, "CUDA 12.8"),
    ],
)
def test_what_can_not_be_built_is_told_in_one_line(
    zf_run: ZfRun, folder: Path, args: list[str], code: int, words: str
) -> None:
    wheels = folder / "none"
    done = zf_run(["build-deepspeed", *args, "--wheels", str(wheels), "--json"], folder)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert json.loads(done.stdout)["exit"] == code
    assert not wheels.exists()


def test_no_compiler(zf_run: ZfRun, folder: Path) -> None:
    environ = {"CXX": str(folder / "no-such-compiler")}
    done = zf_run(["build-deepspeed", "--arch", "8.0", "--json"], folder, environ=environ)
    assert done.returncode == 1
    assert "compiler: found no " in done.stderr
    assert "install g++ (Debian, Ubuntu)" in done.stderr


def test_no_nvcc_and_no_network(zf_run: ZfRun, folder: Path, tmp_path: Path) -> None:
    """nvcc is to come as packages, and pip reaches no index: one line, and no half toolkit."""
    environ = {
        "CUDA_HOME": str(tmp_path / "no-toolkit"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    args = ["--arch", "8.0", "--wheels", str(tmp_path / "wheels"), "--json"]
    done = zf_run(["build-deepspeed", *args], folder, environ=environ)
    assert done.returncode == 4, done.stderr
    answer = json.loads(done.stdout)
    assert "Could not find a version that satisfies" in answer["error"]["found"]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "wheels").exists()
    assert not list((tmp_path / "cache").rglob("nvcc"))
    shutil.rmtree(tmp_path / "cache")
