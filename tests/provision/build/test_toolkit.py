from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.toolkit import (
    LOCKS,
    NEEDED,
    Toolkit,
    apply_view,
    choose_toolkit,
    missing,
    nvcc_script,
    parse_archs_listed,
    parse_newest_gcc,
    parse_release,
    read_toolkits,
    read_view,
)
from provision.compat import NVCC_ARCHS, NVCC_GCC, TORCH_CUDA, cudas_for, toolkit_fits

FACTS = Path(__file__).parents[2] / "facts" / "cuda"
#: As in include/crt/host_config.h of CUDA 13.0.
HOST_CONFIG = """\
#if defined(__GNUC__)

#if __GNUC__ > 15

#error -- unsupported GNU version! gcc versions later than 15 are not supported!
"""


def fact(name: str) -> str:
    return (FACTS / name).read_text()


def make_home(home: Path) -> Path:
    """A toolkit that lacks what a slim one does: libraries and their headers."""
    for name in ("bin/nvcc", "bin/ptxas", "nvvm/bin/cicc", "include/cuda_runtime.h",
                 "include/cccl/thrust/complex.h", "lib/libcudart.so.13"):  # fmt: skip
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{home.name} {name}")
    config = home / "include" / "crt" / "host_config.h"
    config.parent.mkdir()
    config.write_text(HOST_CONFIG)
    return home


def make_packages(folder: Path) -> Path:
    """site-packages with the CUDA packages of torch, as far as a build needs them."""
    for name in ("cublas_v2.h", "cusparse.h", "cusolverDn.h", "curand_kernel.h", "cuda_runtime.h"):
        path = folder / "nvidia" / "cu13" / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    library = folder / "nvidia" / "cu13" / "lib" / "libcurand.so.10"
    library.parent.mkdir()
    library.write_text("libcurand")
    return folder


def toolkit(version: str, *, lock: Path | None = None) -> Toolkit:
    return Toolkit(home=Path("/cuda"), version=version, archs=("8.0",), gcc=15, parts={}, lock=lock)


def test_programs_say_their_version() -> None:
    assert parse_release(fact("nvcc-13.0-version.txt")) == "13.0.88"
    assert parse_release(fact("ptxas-13.0-version.txt")) == "13.0.88"
    assert parse_release("") == ""
    assert parse_release("bash: nvcc: command not found") == ""


def test_the_tables_are_what_nvcc_and_its_headers_say() -> None:
    assert parse_archs_listed(fact("nvcc-13.0-list-gpu-arch.txt")) == NVCC_ARCHS["13.0"]
    assert parse_newest_gcc(HOST_CONFIG) == NVCC_GCC["13.0"]
    assert parse_newest_gcc("") is None
    assert cudas_for("7.0") == ("11.8", "12.0", "12.1", "12.2", "12.3", "12.4", "12.5", "12.6",
                                "12.8", "12.9")  # fmt: skip
    assert cudas_for("12.1") == ("12.9", "13.0")


@pytest.mark.parametrize(
    ("cuda", "torch", "fits"),
    [("13.0", "13.0", True), ("13.1", "13.0", False), ("12.4", "12.8", True),
     ("12.8", "13.0", False), ("11.8", "11.8", True), ("13.0", "12.8", False)],
)  # fmt: skip
def test_which_toolkit_fits_which_torch(cuda, torch, fits) -> None:
    assert toolkit_fits(cuda, torch) is fits


def test_the_first_that_fits_and_is_of_the_kind_asked_for() -> None:
    old, here = toolkit("12.8.61"), toolkit("13.0.88")
    packages = replace(here, lock=Path("cuda-13.0.lock"))
    both = (old, here, packages)
    assert choose_toolkit("auto", both, "13.0") is here
    assert choose_toolkit("auto", (old, packages), "13.0") is packages
    assert choose_toolkit("pypi", both, "13.0") is packages
    assert choose_toolkit("system", (old, packages), "13.0") is None
    assert choose_toolkit("auto", both, "12.4") is old


def test_toolkits_of_this_machine_come_first_then_the_locks(tmp_path: Path) -> None:
    home = make_home(tmp_path / "cuda")

    def read(command: str) -> str:
        for name in ("nvcc", "ptxas"):
            if command == f"{home}/bin/{name} --version":
                return fact(f"{name}-13.0-version.txt")
        listing = command == f"{home}/bin/nvcc --list-gpu-arch"
        return fact("nvcc-13.0-list-gpu-arch.txt") if listing else ""

    here, packages = read_toolkits(read, {"CUDA_HOME": str(home)}, "13.0", tmp_path / "cache")
    assert (here.kind, here.cuda, here.gcc, here.archs) == ("system", "13.0", 15, packages.archs)
    assert {here.parts[name] for name in ("nvcc", "ptxas")} == {"13.0.88"}
    assert (packages.kind, packages.version) == ("pypi", "13.0.88")
    assert packages.folder.parent == tmp_path / "cache" / "toolkits"
    assert str(packages) == "CUDA 13.0.88 (packages of cuda-13.0.lock)"
    (home / "include" / "crt" / "host_config.h").write_text(HOST_CONFIG + "// patched")
    changed = read_toolkits(read, {"CUDA_HOME": str(home)}, "13.0", tmp_path)[0]
    (home / "nvvm" / "bin" / "cicc").write_text("patched")
    again = read_toolkits(read, {"CUDA_HOME": str(home)}, "13.0", tmp_path)[0]
    assert here.parts != changed.parts != again.parts


def test_a_script_called_nvcc_is_no_toolkit(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n")
    found = read_toolkits(lambda _: fact("nvcc-13.0-version.txt"), {"CUDA_HOME": str(tmp_path)},
                          "13.0", tmp_path)  # fmt: skip
    assert [one.kind for one in found] == ["pypi"]


def test_the_cuda_of_the_default_torch_has_a_lock_that_pins_its_parts_together() -> None:
    for cuda in TORCH_CUDA.values():
        text = (LOCKS / f"cuda-{cuda}.lock").read_text()
        pins = dict(line.split(" ")[0].split("==") for line in text.splitlines() if "==" in line)
        parts = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt")
        assert len({pins[part] for part in parts}) == 1
        assert pins["nvidia-cuda-cccl"].startswith(f"{cuda}.")
        assert all(Version(pin) for pin in pins.values())


def test_a_view_is_the_toolkit_and_what_it_lacks_from_torchs_packages(tmp_path: Path) -> None:
    home, packages = make_home(tmp_path / "cuda"), make_packages(tmp_path / "site-packages")
    assert "lib64/libcurand.so" in missing(read_view(home, tmp_path / "none"))
    links = read_view(home, packages)
    assert missing(links) == ()
    apply_view(links, "#!/bin/sh\n", tmp_path / "view")
    assert (tmp_path / "view" / "include" / "cuda_runtime.h").read_text().startswith("cuda ")
    assert (tmp_path / "view" / "include" / "cusparse.h").read_text() == "cusparse.h"
    assert (tmp_path / "view" / "lib64" / "libcurand.so").read_text() == "libcurand"
    assert (tmp_path / "view" / "lib64" / "libcudart.so").exists()
    assert (home / "bin" / "nvcc").read_text() == "cuda bin/nvcc"
    assert os.access(tmp_path / "view" / "bin" / "nvcc", os.X_OK)
    for part in NEEDED:
        if part != "include/thrust/complex.h":  # a folder further down, where nvcc looks itself
            assert (tmp_path / "view" / part).exists()


def test_the_drivers_library_is_a_stub_of_the_toolkit(tmp_path: Path) -> None:
    home, packages = make_home(tmp_path / "cuda"), make_packages(tmp_path / "site-packages")
    (home / "lib").rename(home / "lib64")
    stub = home / "lib64" / "stubs" / "libcuda.so"
    stub.parent.mkdir()
    stub.touch()
    links = read_view(home, packages)
    assert links["lib64/libcuda.so"] == stub
    assert missing(links, ["lib64/libcuda.so"]) == ()
    assert missing(links, ["lib64/libother.so"]) == ("lib64/libother.so",)


def test_nvcc_writes_no_line_numbers(tmp_path: Path) -> None:
    home = tmp_path / "a toolkit"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "nvcc").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (home / "bin" / "nvcc").chmod(0o755)
    script = tmp_path / "nvcc"
    script.write_text(nvcc_script(replace(toolkit("13.0.88"), home=home)))
    script.chmod(0o755)
    argv = [script, "-O3", "-lineinfo", "-DX=a b", "x.cu"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["-O3", "-DX=a b", "x.cu"]


def test_nothing_is_missed_silently(tmp_path: Path) -> None:
    packages = make_packages(tmp_path / "site-packages")
    (packages / "nvidia" / "cu13" / "include" / "cusparse.h").unlink()
    home = make_home(tmp_path / "cuda")
    (home / "nvvm" / "bin" / "cicc").unlink()
    assert missing(read_view(home, packages)) == ("nvvm/bin/cicc", "include/cusparse.h")
