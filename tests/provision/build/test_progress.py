from __future__ import annotations

from pathlib import Path

from provision.build.progress import Progress, advance, pip_news, pip_percent

NINJA = Path(__file__).parents[2] / "facts" / "build" / "ninja.log"


def test_recorded_build() -> None:
    said, progress = [], Progress()
    for line in NINJA.read_text().splitlines():
        before, progress = progress, advance(progress, line)
        if progress != before:
            said.append(str(progress))
    assert said == [
        "compiling shm_comm",
        "compiled shm_comm 1/2: shm.cpp",
        "compiled shm_comm 2/2: shm_interface.cpp",
        "compiling cpu_adam",
        "compiled cpu_adam 1/2: cpu_adam_impl.cpp",
        "compiled cpu_adam 2/2: cpu_adam.cpp",
    ]


def test_counts_outside_of_an_extension_are_no_progress() -> None:
    assert advance(Progress(), "[1/2] g++ -c x.cpp") == Progress()
    assert str(advance(Progress(module="a.b_op"), "[3/7] link")) == "compiled b 3/7"


def test_pip_lines() -> None:
    mib = "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (900.1 MB)"
    assert pip_news(f"  Downloading {mib}") == f"downloading {mib}"
    assert pip_news(f"Downloading https://index/whl/{mib}") == f"downloading {mib}"
    assert pip_news("Installing collected packages: mpmath, sympy, torch") == (
        "installing 3 packages"
    )
    assert pip_news("Requirement already satisfied: setuptools") == ""


def test_pip_percent() -> None:
    assert pip_percent("Progress 450 of 900") == 50
    assert pip_percent("Progress 0 of 0") is None
    assert pip_percent("Successfully installed torch") is None
