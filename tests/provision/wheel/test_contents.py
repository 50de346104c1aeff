from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.wheel.contents import opened_wheel, parse_assignments, read_contents, read_places

WHEEL = "deepspeed-0.19.8+torch2.13.cpu.x86v3-cp311-cp311-linux_x86_64.whl"
ADAM = "deepspeed/ops/adam/cpu_adam_op.cpython-311-x86_64-linux-gnu.so"
SHM = "deepspeed/ops/comm/deepspeed_shm_comm_op.cpython-311-x86_64-linux-gnu.so"
QUANTIZER = "deepspeed/ops/quantizer/quantizer_op.cpython-311-x86_64-linux-gnu.so"
RECORD = "deepspeed/git_version_info_installed.py"
INSTALLED = """\
version='0.19.8+torch2.13.cpu.x86v3'
installed_ops={'async_io': False, 'deepspeed_shm_comm': 1, 'cpu_adam': 1}
accelerator_name='cpu'
torch_info={'version': '2.13', 'bf16_support': False, 'cuda_version': '0.0'}
"""


def put(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_read_contents_runs_nothing(tmp_path: Path) -> None:
    files = {RECORD: INSTALLED, ADAM: "", SHM: "", QUANTIZER: "", "deepspeed.libs/x.so": ""}
    found = read_contents(put(tmp_path / WHEEL, files))
    assert found.version == "0.19.8+torch2.13.cpu.x86v3"
    assert found.tags == ("cp311-cp311-linux_x86_64",)
    # An op of somebody else's, that our table does not have, goes by its file.
    assert found.modules == {"cpu_adam": ADAM, "shm_comm": SHM, "quantizer": QUANTIZER}
    assert found.installed_ops == ("cpu_adam", "shm_comm")
    assert (found.accelerator, found.torch, found.torch_cuda) == ("cpu", "2.13", None)


def test_an_old_release_says_less(tmp_path: Path) -> None:
    text = "version='0.5.0'\ngit_hash='x'\ninstalled_ops={'cpu_adam': False}\n"
    found = read_contents(put(tmp_path / "deepspeed-0.5.0-py3-none-any.whl", {RECORD: text}))
    assert (found.modules, found.installed_ops) == ({}, ())
    assert (found.accelerator, found.torch, found.torch_cuda) == ("", "", None)


def test_assignments_are_literals() -> None:
    assert parse_assignments("a = 1\nimport os\nb = {'c': None}\n") == {"a": 1, "b": {"c": None}}
    with pytest.raises(ValueError):
        parse_assignments("a = open('/etc/passwd')")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("torch-2.13.0-cp311-cp311-linux_x86_64.whl", {"torch/x.py": ""}, "found a wheel of torch"),
        (WHEEL, {"deepspeed/x.py": ""}, "no deepspeed/git_version_info_installed.py in it"),
        (WHEEL, {RECORD: "version = open('x')"}, "can't be read"),
        (WHEEL, {RECORD: "installed_ops={"}, "can't be read"),
        ("deepspeed.whl", {RECORD: INSTALLED}, "name a .whl file by its full name"),
        ("deepspeed.tar.gz", {RECORD: INSTALLED}, "name a .whl file by its full name"),
    ],
)
def test_no_deepspeed_wheel(tmp_path: Path, name: str, files, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_contents(put(tmp_path / name, files))
    assert "\n" not in str(caught.value)


def test_no_archive_and_a_damaged_one(tmp_path: Path) -> None:
    wheel = tmp_path / WHEEL
    with pytest.raises(ConfigError, match="No such file"):
        read_contents(wheel)
    wheel.write_bytes(b"half a wheel")
    with pytest.raises(ConfigError, match="not a zip file"):
        read_contents(wheel)
    whole = put(wheel, {RECORD: INSTALLED, ADAM: "the module"}).read_bytes()
    wheel.write_bytes(whole.replace(b"the module", b"the m0dule"))
    with pytest.raises(ConfigError, match=f"{ADAM} is damaged"):
        read_contents(wheel)
    wheel.write_bytes(whole[:-30])
    with pytest.raises(ConfigError, match="a DeepSpeed wheel"), opened_wheel(wheel):
        pass


def test_places_are_found_in_any_file(tmp_path: Path) -> None:
    wheel = put(tmp_path / WHEEL, {"a.py": "x = '/cache/work/y'", "b.so": "\0/site-packages\0"})
    assert read_places(wheel, ("/cache", "/home/me")) == {"a.py": "/cache"}
