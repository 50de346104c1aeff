from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.audit import (
    Contents,
    compare_contents,
    compare_proof,
    parse_assignments,
    parse_proof,
    read_contents,
)
from provision.errors import BuildError

WHEEL = "deepspeed-0.19.8+torch2.13.cpu.x86v3-cp311-cp311-linux_x86_64.whl"
ADAM = "deepspeed/ops/adam/cpu_adam_op"
SHM = "deepspeed/ops/comm/deepspeed_shm_comm_op"
SUFFIX = ".cpython-311-x86_64-linux-gnu.so"
INSTALLED = """\
version='0.19.8+torch2.13.cpu.x86v3'
installed_ops={'async_io': False, 'deepspeed_shm_comm': 1, 'cpu_adam': 1}
accelerator_name='cpu'
"""
GOOD = Contents(
    tags=("cp311-cp311-linux_x86_64",),
    modules={ADAM: ADAM + SUFFIX, SHM: SHM + SUFFIX},
    installed_ops=("cpu_adam", "deepspeed_shm_comm"),
    accelerator="cpu",
)
PROOF = {"cpu_adam": "ok", "shm_comm": "ok", "adam": 2.9e-6}


def test_read_contents_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deepspeed/git_version_info_installed.py", INSTALLED)
        for name in (ADAM, SHM):
            archive.writestr(name + SUFFIX, b"")
    assert read_contents(path) == GOOD


def test_assignments_of_literals_only() -> None:
    assert parse_assignments("import os\na = {'x': [1]}\n") == {"a": {"x": [1]}}
    with pytest.raises(ValueError):
        parse_assignments("a = open('/etc/passwd')")


def test_good_wheel(spec) -> None:
    compare_contents(GOOD, spec, wheel=WHEEL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tags": ("py3-none-any",)}, "py3-none-any"),
        ({"accelerator": "cuda"}, "built for accelerator cuda, expected cpu"),
        ({"accelerator": ""}, "accelerator unknown"),
        ({"installed_ops": ("cpu_adam",)}, "op shm_comm left out"),
        ({"installed_ops": (*GOOD.installed_ops, "cpu_lion")}, "op cpu_lion that nobody asked"),
        ({"modules": {ADAM: ADAM + SUFFIX}}, "op shm_comm without its module"),
        ({"modules": {**GOOD.modules, "deepspeed/ops/x_op": "x"}}, "unknown modules .*x_op"),
    ],
)
def test_refused(spec, changes, words: str) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        compare_contents(replace(GOOD, **changes), spec, wheel=WHEEL)
    assert caught.value.exit_code == 4


def test_proof_answers_among_noise() -> None:
    lines = ["[WARNING] hello", 'zerofleet-proof {"cpu_adam": "loading"}',
             'zerofleet-proof {"cpu_adam": "ok"}', "zerofleet-proof"]  # fmt: skip
    assert parse_proof(lines) == {"cpu_adam": "ok"}


def test_good_proof(spec) -> None:
    compare_proof(PROOF, spec, status=0)


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"shm_comm": "loading"}, -4, r"op shm_comm: .* ended while it was loaded .*status -4"),
        ({"shm_comm": "ImportError: undefined symbol: io_submit"}, 0, "io_submit"),
        ({"adam": 2e-5}, 0, "op cpu_adam: found a difference of 2e-05"),
        ({"adam": float("nan")}, 0, "difference of nan"),
        ({"adam": None}, 1, "op cpu_adam: found no answer"),
        ({}, 139, "exit status 139"),
    ],
)
def test_refused_proof(spec, changes, status: int, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        compare_proof({**PROOF, **changes}, spec, status=status)


def test_an_op_that_was_not_reached(spec) -> None:
    with pytest.raises(BuildError, match="op shm_comm: found not reached"):
        compare_proof({"cpu_adam": "ok"}, spec, status=-11)
