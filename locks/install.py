"""Make a folder a virtual environment that holds exactly a lock: ``install.py LOCK VENV PYTHON``.

Started by ``zf`` when the environment is missing, stale or broken. Standard library only. Any
number may start at once: a file lock, which the kernel drops with its owner, lets one build while
the others wait. The copy of the lock that ``zf`` compares is written last, so an interrupted
build is never taken for a complete one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

#: pip settings that would install elsewhere than into the environment.
MISLEADING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")


class Refused(Exception):
    """One line for the user: why nothing was made."""


def say(line: str) -> None:
    """Progress for a person; stdout belongs to the command that runs afterwards."""
    print(f"zf: {line}", file=sys.stderr, flush=True)


def apply_install(lock: Path, folder: Path, asked: str) -> None:
    """Leave ``folder`` holding exactly ``lock``, made by this interpreter (``asked`` names it)."""
    mark = folder / ".zf-lock"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        guard = open(f"{folder}.lock", "a")  # noqa: SIM115, PTH123 (held until this process ends)
    except OSError as error:
        raise Refused(
            f"can't write beside {folder} ({error.strerror}): "
            "set ZEROFLEET_VENV to a folder that can be written"
        ) from None
    with guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if read_complete(mark, lock, asked):
            return  # another zf made it while this one waited
        apply_clear(folder, mark)
        say(f"making {folder} with Python {sys.version.split()[0]} (once, some seconds)")
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
        apply_pip(folder, lock, guard.fileno())
        (folder / ".zf-python").write_text(asked)
        complete = folder / ".zf-lock.new"
        shutil.copyfile(lock, complete)
        complete.replace(mark)


def read_complete(mark: Path, lock: Path, asked: str) -> bool:
    """Whether the environment is already what is wanted, and its interpreter still runs."""
    try:
        same = mark.read_bytes() == lock.read_bytes()
        made_by = (mark.parent / ".zf-python").read_text()
    except FileNotFoundError:
        return False
    probe = [str(mark.parent / "bin" / "python"), "-c", "import invoke"]
    try:
        runs = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
    return same and made_by == asked and runs


def apply_clear(folder: Path, mark: Path) -> None:
    """Empty ``folder`` if it is ours (it bears our mark); never touch anyone else's."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Refused(f"{folder} is not a folder: move it away, or set ZEROFLEET_VENV")
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise Refused(
            f"{folder} was not made by zf and would be lost: "
            "move it away, or set ZEROFLEET_VENV to another folder"
        )
    folder.mkdir(exist_ok=True)
    mark.write_bytes(b"")
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != mark:
            entry.unlink()


def apply_pip(folder: Path, lock: Path, guard: int) -> None:
    """Install the lock; every file is checked against its hash there.

    pip holds the file lock too: should this process be killed, the next zf waits for pip's end.
    """
    python = str(folder / "bin" / "python")
    argv = [python, "-m", "pip", "install", "-qq", "--no-input", "--no-warn-script-location"]
    argv += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    environ = {k: v for k, v in os.environ.items() if k not in MISLEADING}
    done = subprocess.run(argv, env=environ, stdout=sys.stderr, pass_fds=(guard,), check=False)
    if done.returncode:
        raise Refused(f"pip could not install {lock} (exit {done.returncode}; its reason is above)")


def main(argv: list[str]) -> int:
    """Run as a script; 0 when the environment is complete, 2 with one line when it can't be."""
    lock, folder, asked = argv
    try:
        apply_install(Path(lock), Path(folder), asked)
    except Refused as refused:
        say(str(refused))
        return 2
    except OSError as error:
        say(f"can't make {folder}: {error}")
        return 2
    except subprocess.CalledProcessError as error:  # ensurepip, from venv
        say(f"Python {sys.executable} can't make a virtual environment (exit {error.returncode})")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
