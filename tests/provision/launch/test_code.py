"""What travels of a code folder, and that every host gets the same bytes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch import code
from provision.launch.code import (
    read_archive,
    read_names,
    read_own_code,
    read_script_args,
    read_trainer_code,
)
from provision.script import read_onhost


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")


def git(folder: Path, *words: str) -> None:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    argv = ["git", *settings, *words]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my code"
    write(folder, "train.py", "lib/model.py", "data/big.bin", ".venv/pyvenv.cfg", ".venv/x.py")
    write(folder, "lib/__pycache__/model.pyc", "mine/pyvenv.cfg", "outputs/weights")
    return folder


def test_without_git_what_is_no_code_stays(project: Path) -> None:
    (project / "link").symlink_to("lib/model.py")
    (project / "there").symlink_to("/nowhere/data")
    assert sorted(read_names(project)) == [
        "data/big.bin",
        "lib/model.py",
        "link",
        "there",
        "train.py",
    ]


def test_a_scratch_folder_that_a_repository_ignores_is_taken_as_it_is(project: Path) -> None:
    outer = project.parent
    git(outer, "init", ".")
    (outer / ".gitignore").write_text(f"{project.name}/\n")
    assert sorted(read_names(project)) == ["data/big.bin", "lib/model.py", "train.py"]


def test_with_git_what_it_has_or_would_add(project: Path) -> None:
    write(project, "gone.py", "ignored/but/added.py")
    (project / ".gitignore").write_text("data/\nmine/\n.venv\noutputs/\n*.pyc\nignored/\n")
    git(project, "init", ".")
    git(project, "add", "train.py", "gone.py")
    git(project, "add", "-f", "ignored/but/added.py")
    (project / "gone.py").unlink()
    inner = project / "vendor" / "lib"
    write(inner, "a.py", "junk.tmp")
    (inner / ".gitignore").write_text("*.tmp\n")
    git(inner, "init", ".")
    assert sorted(read_names(project)) == [
        ".gitignore",
        "ignored/but/added.py",
        "lib/model.py",
        "train.py",
        "vendor/lib/.gitignore",
        "vendor/lib/a.py",
    ]
    assert "model.py" in read_names(project / "lib")


def test_a_repository_that_git_can_not_read_is_never_taken_as_a_plain_folder(project: Path) -> None:
    (project / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(ConfigError, match="git ls-files: fatal: not a git repository"):
        read_names(project)


def test_the_same_content_is_the_same_archive(project: Path, tmp_path: Path) -> None:
    one, target = read_own_code(project, project / "train.py")
    assert target == "train.py"
    (project / "train.py").touch()
    assert read_own_code(project, project / "train.py")[0].sha256 == one.sha256
    (project / "train.py").chmod(0o755)
    assert read_own_code(project, project / "train.py")[0].sha256 != one.sha256
    assert "sha256" in str(one)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("missing.py", "--script: found no file"),
        ("../other.py", "--script: found .*, outside .*--code FOLDER"),
        (".venv/x.py", "which git ignores"),
    ],
)
def test_a_script_that_would_not_travel(project: Path, script: str, message: str) -> None:
    write(project.parent, "other.py")
    with pytest.raises(ConfigError, match=message):
        read_own_code(project, project / script)


def test_a_folder_with_data_in_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MAX_BYTES", 20)
    with pytest.raises(ConfigError, match=r"3 files, the largest data/big.bin .*\.gitignore"):
        read_own_code(project, project / "train.py")


def unpack(*args: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", read_onhost("unpack"), *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_a_host_unpacks_what_was_packed(project: Path, tmp_path: Path) -> None:
    (project / "train.py").chmod(0o755)
    (project / "there").symlink_to("/nowhere/data")
    packed, _ = read_own_code(project, project / "train.py")
    archive, folder = tmp_path / "code.tar.gz", tmp_path / "run" / "code"
    archive.write_bytes(packed.archive)
    done = unpack(archive, packed.sha256, folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "lib/model.py").read_text() == "# lib/model.py\n"
    assert (folder / "train.py").stat().st_mode & 0o111
    assert str((folder / "there").readlink()) == "/nowhere/data"
    assert not (folder / "outputs").exists()


def test_a_damaged_archive_is_removed_and_nothing_is_unpacked(tmp_path: Path) -> None:
    archive, folder = tmp_path / "code.tar.gz", tmp_path / "code"
    archive.write_bytes(b"damaged")
    done = unpack(archive, "0" * 64, folder)
    assert done.returncode == 1
    assert "removed, run it again" in done.stderr
    assert not archive.exists()
    assert not folder.exists()


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "x")
    packed = read_archive({"../escaped": tmp_path / "x"})
    (tmp_path / "a").mkdir()
    archive = tmp_path / "a" / "code.tar.gz"
    archive.write_bytes(packed.archive)
    done = unpack(archive, packed.sha256, tmp_path / "a" / "code")
    assert (done.returncode, "outside the folder" in done.stderr) == (1, True)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "a" / "escaped").exists()


def test_our_trainers(tmp_path: Path) -> None:
    for name in ("trainer/sft.py", "zero_configs/zero1.json", "trainer/notes.txt", "other/x.py"):
        write(tmp_path, name)
    found = read_trainer_code(tmp_path)
    assert [file.target for file in found.files] == ["trainer/sft.py", "zero_configs/zero1.json"]
    assert "trainer/sft.py" in found
    assert "trainer/notes.txt" not in found


def test_arguments_behind_two_dashes_stay_words() -> None:
    argv = ["invoke", "train", "--script", "a.py", "--", "--name", "two words", "--", ""]
    assert read_script_args(argv) == ("--name", "two words", "--", "")
    assert read_script_args(["invoke", "train"]) == ()
