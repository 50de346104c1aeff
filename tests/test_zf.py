"""zf on machines we never saw: odd paths, odd Pythons, two at once, nothing to write to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

#: What the shell script itself calls, besides Python.
TOOLS = ("cat", "cmp", "dirname", "readlink")
#: Stands in for Invoke: tells where and how it was started.
INVOKE = """\
import json, os, sys
told = {"cwd": os.getcwd(), "argv": sys.argv[1:], "prefix": sys.prefix, "path": sys.path,
        "config": os.environ.get("INVOKE_RUNTIME_CONFIG")}
print(json.dumps(told))
"""
#: In place of pip, which takes seconds and the network; tests/integration/test_zf.py has it.
INSTALL = """\
import time


def apply_pip(folder, lock, guard):
    with (lock.parent / "installs").open("a") as count:
        count.write("x")
    time.sleep(float(os.environ.get("SLOW", "0")))
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "invoke.py").write_text((lock.parent / "invoke.py").read_text())


"""


@pytest.fixture
def copy(tmp_path: Path, checkout: Path) -> Path:
    """A fresh copy of what zf needs, in a path with a space, with a stand-in for Invoke."""
    root = tmp_path / "my check out"
    (root / "locks").mkdir(parents=True)
    shutil.copy(checkout / "zf", root)
    script = (checkout / "locks" / "install.py").read_text()
    head, main, tail = script.rpartition('if __name__ == "__main__":\n')
    assert main
    (root / "locks" / "install.py").write_text(
        head.replace("with_pip=True, ", "") + INSTALL + main + tail
    )
    (root / "locks" / "controller.lock").write_text("# nothing\n")
    (root / "locks" / "invoke.py").write_text(INVOKE)
    return root


def installs(root: Path) -> int:
    file = root / "locks" / "installs"
    return len(file.read_text()) if file.exists() else 0


def zf(
    root: Path, *args: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "zf"), *args], cwd=cwd or root, env=outside(environ), text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False,
    )  # fmt: skip


def outside(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a user: not of this test's own virtual environment."""
    return {**os.environ, "ZEROFLEET_PYTHON": sys.executable, **(more or {})}


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def fake(folder: Path, name: str, program: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{program}\n")
    file.chmod(0o755)


def only(folder: Path) -> dict[str, str]:
    """A PATH of the shell's tools and ``folder``."""
    for tool in TOOLS:
        real = shutil.which(tool)
        assert real
        (folder / tool).symlink_to(real)
    return {"PATH": str(folder), "ZEROFLEET_PYTHON": ""}


def test_any_folder_any_link_and_the_users_folder_stays(copy: Path, tmp_path: Path) -> None:
    first = zf(copy, "--list")
    assert told(first)["prefix"] == str(copy / ".venv")
    assert told(first)["argv"] == ["--search-root", str(copy), "--list"]
    assert first.stderr.count("\n") == 1  # one line says what takes a moment

    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to("../my check out/zf")
    (elsewhere / "zf").symlink_to("link")
    again = zf(elsewhere, "train", "--set", "a=b c", cwd=elsewhere)
    got = told(again)
    assert (got["cwd"], got["config"]) == (str(elsewhere), None)
    assert got["argv"] == ["--search-root", str(copy), "train", "--set", "a=b c"]
    assert str(elsewhere) not in got["path"]  # a rich.py there would stand in for the real one
    assert again.stderr == ""
    assert installs(copy) == 1


def test_the_folders_own_settings_count(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "invoke.yaml").write_text("zerofleet: {}\n")
    (copy / "invoke.yaml").write_text("zerofleet: {}\n")
    assert told(zf(copy, cwd=tmp_path))["config"] == str(tmp_path / "invoke.yaml")
    assert told(zf(copy))["config"] is None  # Invoke finds that one itself
    given = zf(copy, cwd=tmp_path, environ={"INVOKE_RUNTIME_CONFIG": "/mine"})
    assert told(given)["config"] == "/mine"


def test_a_second_start_installs_nothing_and_a_new_lock_is_installed(copy: Path) -> None:
    zf(copy)
    told(zf(copy))
    assert installs(copy) == 1
    (copy / ".venv" / "left-over").write_text("of the old lock")
    (copy / "locks" / "controller.lock").write_text("# another\n")
    told(zf(copy))
    assert installs(copy) == 2
    assert not (copy / ".venv" / "left-over").exists()


def test_a_broken_or_interrupted_environment_is_made_again(copy: Path) -> None:
    zf(copy)
    python = copy / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")  # its Python was uninstalled
    told(zf(copy))
    (copy / ".venv" / ".zf-lock").write_text("")  # as it is while pip runs
    told(zf(copy))
    assert installs(copy) == 3


def test_two_at_once_make_one(copy: Path) -> None:
    starts = [
        subprocess.Popen(
            [str(copy / "zf")], cwd=copy, env=outside({"SLOW": "1"}), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for start in starts:
        out, err = start.communicate(timeout=240)
        assert (start.returncode, out.count("prefix")) == (0, 1), err
    assert installs(copy) == 1


def test_a_killed_build_holds_nothing_up(copy: Path) -> None:
    install = [sys.executable, str(copy / "locks" / "install.py")]
    install += [str(copy / "locks" / "controller.lock"), str(copy / ".venv"), sys.executable]
    killed = subprocess.Popen(install, env=outside({"SLOW": "600"}), stderr=subprocess.DEVNULL)
    while not installs(copy):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    told(zf(copy))
    assert installs(copy) == 2


@pytest.mark.parametrize("mine", ["notes.txt", "pyvenv.cfg"])
def test_a_folder_that_zf_did_not_make_is_left_alone(copy: Path, tmp_path: Path, mine: str) -> None:
    home = tmp_path / "mine"
    home.mkdir()
    (home / mine).write_text("precious")
    done = zf(copy, environ={"ZEROFLEET_VENV": str(home)})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "was not made by zf" in done.stderr
    assert (home / mine).read_text() == "precious"


def test_another_folder_for_the_environment(copy: Path, tmp_path: Path) -> None:
    done = zf(copy, cwd=tmp_path, environ={"ZEROFLEET_VENV": "new/venv"})
    assert told(done)["prefix"] == str(tmp_path / "new" / "venv")
    assert not (copy / ".venv").exists()


def test_a_checkout_that_can_not_be_written(copy: Path, tmp_path: Path) -> None:
    # A file where the folder should be: root may write into folders without permission.
    (tmp_path / "file").write_text("")
    done = zf(copy, environ={"ZEROFLEET_VENV": str(tmp_path / "file" / "venv")})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "set ZEROFLEET_VENV to a folder that can be written" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_checkout(copy: Path) -> None:
    copy.chmod(0o555)
    done = zf(copy)
    copy.chmod(0o755)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set ZEROFLEET_VENV to a folder that can be written" in done.stderr


def refusal(copy: Path, environ: dict[str, str]) -> str:
    done = zf(copy, environ=environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "install python3.11 and python3.11-venv (Debian, Ubuntu)" in done.stderr
    assert not (copy / ".venv").exists()
    return done.stderr


def test_no_python_at_all(copy: Path, tmp_path: Path) -> None:
    assert "found none that runs" in refusal(copy, only(tmp_path))


def test_only_an_old_python_and_a_shim_that_fails(copy: Path, tmp_path: Path) -> None:
    old = f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, 9); $2"'
    fake(tmp_path, "python3", old)
    fake(tmp_path, "python3.12", 'echo "pyenv: python3.12: command not found" >&2; exit 127')
    assert "found 3.9 (python3)" in refusal(copy, only(tmp_path))


def test_python_without_ensurepip(copy: Path, tmp_path: Path) -> None:
    bare = f'exec "{sys.executable}" -c "import sys; sys.modules[\'ensurepip\'] = None; $2"'
    fake(tmp_path, "python3", bare)
    assert "(python3) without venv and ensurepip" in refusal(copy, only(tmp_path))


def test_a_later_candidate_serves_when_python3_does_not(copy: Path, tmp_path: Path) -> None:
    fake(tmp_path, "python3", "exit 127")
    fake(tmp_path, "python3.13", f'exec "{sys.executable}" "$@"')
    assert told(zf(copy, environ=only(tmp_path)))["prefix"] == str(copy / ".venv")


def test_the_python_asked_for_is_never_replaced_by_another(copy: Path) -> None:
    assert "ZEROFLEET_PYTHON=/no/python" in refusal(copy, {"ZEROFLEET_PYTHON": "/no/python"})


def test_dash_and_posix(checkout: Path) -> None:
    for shell in ("dash", "bash", "sh"):
        path = shutil.which(shell)
        if path:
            flags = ["--posix"] if shell == "bash" else []
            subprocess.run([path, *flags, "-n", str(checkout / "zf")], check=True)


def test_the_committed_lock_is_whole(checkout: Path) -> None:
    """Every requirement of the lock has hashes, and the lock names no registry."""
    for name in ("controller", "dev", "build", "train"):
        text = (checkout / "locks" / f"{name}.lock").read_text()
        lines = [x for x in text.splitlines() if x and not x.lstrip().startswith("#")]
        pins = [x for x in lines if not x.startswith(" ")]
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert "://" not in text
