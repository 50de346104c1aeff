"""Make an environment on a host.

    install.py create JSON    a virtual environment with hash-locked packages and the pushed wheels

An environment counts only once prove.py wrote its complete.json. One whose packages are not all
installed is made anew.
Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from typing import Any

HOME = os.path.expanduser("~")
ENVS = os.path.join(HOME, ".zerofleet", "envs")


def say(text: str) -> None:
    """A line of progress for the controller."""
    print("ZEROFLEET-SAY " + text, flush=True)


def fail(text: str) -> None:
    """End with the line that the controller shows."""
    print(text, file=sys.stderr)
    raise SystemExit(1)


def verify(path: str, wanted: str) -> str:
    """The absolute path of a pushed file, hashed once more before pip sees it."""
    path = os.path.join(HOME, path)
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha.update(block)
    if sha.hexdigest() != wanted:
        fail("%s: sha256 is %s, not %s" % (path, sha.hexdigest()[:12], wanted[:12]))
    return path


def end_with_connection(session: int) -> None:
    """Stop a session of ours when the controller goes away: sshd itself would let it run on.

    The controller never writes to standard input, so its end is the connection's end. Where it is
    no pipe or socket (a terminal, /dev/null), nobody's going away can be seen.
    """
    kind = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def pip(environment: str, args: list[str]) -> None:
    """Pip of an environment, its steps shown as progress, its error as ours."""
    argv = [os.path.join(environment, "bin", "python"), "-m", "pip", *args]
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    end_with_connection(process.pid)
    lines = []
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        lines.append(line)
        if line.startswith(("Collecting torch", "Collecting nvidia", "Installing collected")):
            say(line[:100] + ("…" if len(line) > 100 else ""))
    if process.wait() != 0:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        fail("pip: " + " / ".join(errors)[:600])


def create(wanted: dict[str, Any]) -> None:
    """The environment, complete but for its proof. A half-made one is removed first."""
    environment = os.path.join(ENVS, wanted["name"])
    os.makedirs(ENVS, mode=0o700, exist_ok=True)
    with open(environment + ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail("another deploy makes this environment right now")
        installed = os.path.join(environment, "installed")
        if os.path.exists(installed):
            say("it is installed already")
            return
        wheels = [(verify(path, sha256), sha256) for path, sha256 in wanted["wheels"]]
        requirements = verify(wanted["requirements"], wanted["requirements_sha256"])
        if os.path.exists(environment):
            say("removing a half-made environment")
            shutil.rmtree(environment)
        say("making the environment with " + wanted["python"])
        made = subprocess.run(
            [wanted["python"], "-m", "venv", environment],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if made.returncode != 0:
            fail("venv: " + made.stdout.decode("utf-8", "replace").strip()[-300:])
        own = os.path.join(environment, "wheels.txt")
        with open(own, "w") as stream:
            stream.writelines("%s --hash=sha256:%s\n" % wheel for wheel in wheels)
        quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
        locked = ["--require-hashes", "--no-deps", "--only-binary=:all:"]
        pip(environment, ["install", *quiet, *locked, "-r", requirements, "-r", own])
        pip(environment, ["check", "--disable-pip-version-check"])
        with open(installed, "w") as stream:
            stream.write("all packages; complete.json says that they were proved\n")


if __name__ == "__main__":
    create(json.loads(sys.argv[2]))
