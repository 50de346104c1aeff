"""--with-source: what may be named, and what of it is still to be built."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.plan import plan_build
from provision.build.with_source import plan_extras, read_sources, with_extras
from provision.errors import ConfigError
from provision.steps import Plan


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "own-transformers"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    return folder


@pytest.fixture
def plan(spec, make_toolchain, make_state):
    return plan_build(spec, make_toolchain(), make_state())


def test_folders_and_archives(project: Path, tmp_path: Path) -> None:
    archive = tmp_path / "trl-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(project, "trl-1.0")
    one, two = read_sources(f"{project}, {archive}")
    assert one.path == project
    assert one.folder
    assert (two.path, two.folder) == (archive, None)
    assert read_sources(None) == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere", "no such file or folder"),
        ("empty", "a folder without pyproject.toml or setup.py"),
        ("notes.txt", "no archive that tar can read"),
        ("transformers==5.23.0", "no such file or folder"),
    ],
)
def test_what_is_no_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ConfigError, match=f"--with-source {name}: found {found}"):
        read_sources(name)


def test_a_wheel_of_the_very_source_is_not_built_again(project: Path, plan, extra) -> None:
    sources = read_sources(str(project))
    (todo,) = plan_extras(plan, sources, ())
    steps = with_extras(Plan(title="build"), (todo,))
    assert "build a wheel of own-transformers" in str(steps)

    there = replace(extra, key=todo.key)
    (done,) = plan_extras(plan, sources, (there,))
    assert done.ready == there
    assert with_extras(Plan(title="build"), (done,)).empty

    (project / "new.py").write_text("")
    (changed,) = plan_extras(plan, read_sources(str(project)), (there,))
    assert changed.ready is None
