"""Pythons, and what was deployed."""

from __future__ import annotations

import sys

from provision.onhost import probe_deployed


def test_interpreters_are_asked_once_each(tmp_path, monkeypatch):
    (tmp_path / "python3").symlink_to(sys.executable)
    (tmp_path / "python").symlink_to(sys.executable)
    shim = tmp_path / "python3.9"
    shim.write_text("#!/bin/sh\necho 'version 3.9 is not installed' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (python,) = probe_deployed.read_pythons()
    assert python["version"] == "{}.{}.{}".format(*sys.version_info[:3])


def test_what_the_environment_s_folder_holds_now(tmp_path, monkeypatch):
    site = tmp_path / ".zerofleet/current/lib/python3.11/site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(
        "__version__ = '2.13.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\n"
    )
    for name in ("nvidia_nccl_cu13-2.27.7", "deepspeed-0.19.8+x", "deepspeed_kernels-0.1"):
        (site / f"{name}.dist-info").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert probe_deployed.read_environment_now() == {
        "torch": "2.13.0+cu130",
        "torch_cuda": "13.0",
        "nccl": "2.27.7",
        "deepspeed": "0.19.8+x",
    }


def test_a_torch_without_cuda_has_none(tmp_path, monkeypatch):
    site = tmp_path / ".zerofleet/current/lib/python3.11/site-packages/torch"
    site.mkdir(parents=True)
    (site / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert probe_deployed.read_environment_now()["torch_cuda"] is None
