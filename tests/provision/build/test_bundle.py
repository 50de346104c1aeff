"""Bundles: the same files are the same bytes, and nothing but what is needed travels."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from provision.build.bundle import Bundle, read_controller, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tree = tmp_path / "project"
    for name in ("setup.py", "pkg/a.py", ".git/HEAD", "build/lib/a.py", "pkg/__pycache__/a.pyc"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tree / "link").symlink_to("pkg/a.py")
    (tree / "zf").write_text("#!/bin/sh\n")
    (tree / "zf").chmod(0o755)
    return tree


def names(bundle: Bundle) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(bundle.content)) as archive:
        return {entry.name: entry for entry in archive}


def test_a_folder_travels_without_what_git_and_builds_leave(folder: Path) -> None:
    found = names(read_folder(folder))
    assert list(found) == ["project/link", "project/pkg/a.py", "project/setup.py", "project/zf"]
    assert found["project/link"].linkname == "pkg/a.py"
    assert [found[f"project/{n}"].mode for n in ("zf", "setup.py")] == [0o755, 0o644]


def test_the_same_files_are_the_same_bytes(folder: Path) -> None:
    before = read_folder(folder)
    os.utime(folder / "setup.py", (0, 0))
    (folder / "build" / "more").write_text("of no account")
    assert read_folder(folder) == before
    assert before.content[4:8] == b"\0\0\0\0"  # gzip's time: RFC 1952
    (folder / "setup.py").write_text("another")
    assert read_folder(folder).sha256 != before.sha256


def test_the_controller_is_all_that_its_commands_need(checkout: Path) -> None:
    found = names(read_controller(checkout))
    assert {"zf", "tasks.py", "locks/controller.lock", "provision/build/on.py"} <= found.keys()
    assert found["zf"].mode == 0o755
    tops = {name.split("/")[0] for name in found}
    assert tops == {"locks", "provision", "tasks.py", "zf"}
    assert not [name for name in found if "__pycache__" in name]
