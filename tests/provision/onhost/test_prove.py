"""An environment holds what its lock says, or it is refused: with real metadata in a folder."""

from __future__ import annotations

import sys

import pytest

from provision.onhost.prove import compare_versions

LOCKED = {"type-a": "1.0", "deepspeed": "0.19.8+torch2.13"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The site-packages of an environment that holds LOCKED, and pip."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name, version in (("Type_A", "1.0"), ("deepspeed", LOCKED["deepspeed"]), ("pip", "23.2")):
        add(folder, name, version)
    return folder


def add(folder, name, version):
    info = folder / f"{name.lower()}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def refusal(capsys, wanted):
    with pytest.raises(SystemExit):
        compare_versions(wanted)
    return capsys.readouterr().err


def test_what_the_lock_says_passes_and_venvs_own_pip_with_it(site):
    compare_versions(LOCKED)


def test_another_version_is_named(site, capsys):
    assert "type-a 1.0 (1.1)" in refusal(capsys, {**LOCKED, "type-a": "1.1"})


def test_a_distribution_that_is_not_there_is_named(site, capsys):
    assert "no torch" in refusal(capsys, {**LOCKED, "torch": "2.13.0"})


def test_one_that_the_lock_does_not_have_is_named(site, capsys):
    add(site, "vllm", "9.9")
    assert "vllm 9.9 (not in the lock)" in refusal(capsys, LOCKED)


def test_a_locked_pip_has_to_be_that_one(site, capsys):
    assert "pip 23.2 (24.0)" in refusal(capsys, {**LOCKED, "pip": "24.0"})
