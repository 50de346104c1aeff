"""Make an environment on a host.

    install.py create JSON    a virtual environment with hash-locked packages and the pushed wheels

JSON with "uv" says: all packages are in the store. Without it, this host's pip downloads them.
With "sites" it then imports from these folders, too: the packages of the user's own Python.
An environment counts only once prove.py wrote its complete.json. One whose packages are not all
installed is made anew.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from typing import Any, Callable, Iterable

from provision.onhost.converse import fail, say
from provision.onhost.files import absolute, digest, sync_all, sync_folder
from provision.onhost.home import ENVS, ROOT

HOME = os.path.expanduser("~")
#: Cores that compile all bytecode (a core-minute) in seconds; on fewer, only what proving imports.
COMPILE_CORES = 8
#: Between two lines that say that something is still at work.
SAY_SECONDS = 5.0


def damaged(files: Iterable[list[str]]) -> list[str]:
    """Pushed files, hashed once more: those that rotted on this disk are removed, and named.

    The store lacks them then, which the controller looks at when we fail: it sends them again.
    """
    named = []
    for target, wanted in files:
        path = absolute(target)
        found = digest(path)
        if found != wanted:
            os.remove(path)
            why = "sha256 was %s, not %s" % (found[:12], wanted[:12])
            named.append("%s: %s; it is removed: run the command again" % (path, why))
    return named


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


def follow(argv: list[str], heard: Callable[[str], object], environ: Any = None) -> list[str]:
    """Run a program to its end, lines to ``heard`` as they come; its last words if it failed."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=environ,
    )
    assert process.stdout is not None
    end_with_connection(process.pid)
    lines = []
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        lines.append(line)
        heard(line)
    status = process.wait()
    if status == 0:
        return []
    if status < 0:  # as end_with_connection does
        fail("%s was ended by signal %d" % (os.path.basename(argv[0]), -status))
    errors = [line.strip() for line in lines if line.startswith(("ERROR", "error:", "  Caused by"))]
    return errors or [line.strip() for line in lines[-3:]] or ["exit %d" % process.returncode]


def keep_saying(what: str) -> Callable[[], None]:
    """Say every few seconds that something is at work; call what this returns at its end."""
    over, began = threading.Event(), time.monotonic()

    def body() -> None:
        while not over.wait(SAY_SECONDS):
            say("%s: %.0f s" % (what, time.monotonic() - began))

    threading.Thread(target=body, daemon=True).start()
    return over.set


def pip(environment: str, args: list[str]) -> None:
    """Pip of an environment, its steps shown as progress, its error as ours."""

    def heard(line: str) -> None:
        if line.startswith(("Collecting torch", "Collecting nvidia", "Installing collected")):
            say(line[:100] + ("…" if len(line) > 100 else ""))

    argv = [os.path.join(environment, "bin", "python"), "-m", "pip", *args]
    errors = follow(argv, heard)
    if errors:
        fail("pip: " + " / ".join(errors)[:600])


def from_index(environment: str, wanted: dict[str, Any]) -> None:
    """Packages as this host's own pip finds them: its index, proxy and certificates are its own."""
    requirements = wanted["requirements"]
    said = damaged([*wanted["wheels"], [requirements, wanted["requirements_sha256"]]])
    if said:
        fail("; ".join(said))
    wheels = [(absolute(path), sha256) for path, sha256 in wanted["wheels"]]
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
    quiet += ["--cache-dir", os.path.join(ROOT, "pip")]  # which undeploy removes
    locked = ["--require-hashes", "--no-deps", "--only-binary=:all:"]
    pip(environment, ["install", *quiet, *locked, "-r", absolute(requirements), "-r", own])
    pip(environment, ["check", "--disable-pip-version-check"])


def from_store(environment: str, wanted: dict[str, Any]) -> None:
    """Packages from this host's store alone, unpacked by the uv that came with them.

    No network, no pip and no venv module. uv's cache is below ``environment + ".work"`` and goes
    with it: every environment is unpacked from files that were hashed for it.
    """
    work = environment + ".work"
    shutil.rmtree(work, ignore_errors=True)  # of an interrupted one
    os.mkdir(work, mode=0o700)
    try:
        said = damaged([wanted["uv"]])  # it is run, so it is hashed first
        if said:
            fail("; ".join(said + damaged(wanted["wheels"])))
        uv = unpack_uv(absolute(wanted["uv"][0]), work)
        # Nothing of the user's own uv, and no environment that this session happens to be in.
        misleading = ("UV_", "VIRTUAL_ENV", "CONDA_", "PYTHONPATH", "PYTHONHOME")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(misleading)}
        offline = ["--offline", "--no-config", "--no-progress", "--color", "never"]
        offline += ["--cache-dir", os.path.join(work, "cache")]
        python = os.path.join(environment, "bin", "python")
        run_uv([uv, "venv", *offline, "--no-python-downloads", "--python", wanted["python"],
                environment], environ)  # fmt: skip
        lines = os.path.join(work, "wheels.txt")
        with open(lines, "w") as stream:
            stream.writelines(requirement(*wheel) for wheel in wanted["wheels"])
        locked = ["--no-index", "--require-hashes", "--no-deps"]
        if len(os.sched_getaffinity(0)) >= COMPILE_CORES:
            locked.append("--compile-bytecode")
        over = keep_saying("unpacking %d packages" % len(wanted["wheels"]))
        try:
            install = [uv, "pip", "install", *offline, *locked, "--python", python, "-r", lines]
            run_uv(install, environ, wanted["wheels"])
        finally:
            over()
        if "sites" in wanted:  # of which uv knows nothing; that they hold what is needed was seen
            import_from(environment, wanted["sites"])
        else:
            run_uv([uv, "pip", "check", *offline, "--python", python], environ)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def import_from(environment: str, sites: list[str]) -> None:
    """Have an environment import from other folders as well, after its own.

    A line of a .pth file that begins with "import" is run: https://docs.python.org/3/library/site.html.
    addsitedir goes by the .pth files in those folders as their own Python does.
    """
    (own,) = glob.glob(os.path.join(glob.escape(environment), "lib", "python3*", "site-packages"))
    with open(os.path.join(own, "zerofleet.pth"), "w", encoding="utf-8") as stream:
        stream.writelines("import site; site.addsitedir(%s)\n" % ascii(site) for site in sites)


def unpack_uv(wheel: str, folder: str) -> str:
    """The program in uv's own wheel: there is nothing else of use in it."""
    target = os.path.join(folder, "uv")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".data/scripts/uv"))
        with archive.open(name) as source, open(target, "wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
    os.chmod(target, 0o700)
    return target


def requirement(path: str, sha256: str) -> str:
    """A line of a requirements file: this very file."""
    file = os.path.join(HOME, path)
    name = os.path.basename(path).split("-")[0]
    return "%s @ file://%s --hash=sha256:%s\n" % (name, urllib.parse.quote(file), sha256)


def run_uv(argv: list[str], environ: dict[str, str], wheels: Any = ()) -> None:
    """One command of uv. If it fails over a file of the store that is not what it was: that."""

    def heard(line: str) -> None:
        if line.startswith(("Prepared", "Installed", "Bytecode compiled")):
            say(line)

    errors = follow(argv, heard, environ)
    if errors:
        fail("; ".join(damaged(wheels)) or "uv: " + " / ".join(errors)[:600])


def create(wanted: dict[str, Any]) -> None:
    """The environment, complete but for its proof. A half-made one is removed first."""
    environment = os.path.join(ENVS, wanted["name"])
    os.makedirs(ENVS, mode=0o700, exist_ok=True)
    with open(environment + ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # One whose controller vanished without a word: it goes on, and we have the host's lock.
            what = "a deploy that was cut off makes this environment still"
            say(what + ": waiting for it")
            over = keep_saying(what)
            fcntl.flock(lock, fcntl.LOCK_EX)
            over()
        installed = os.path.join(environment, "installed")
        if os.path.exists(installed):
            say("it is installed already")
            return
        if os.path.exists(environment):
            say("removing a half-made environment")
            shutil.rmtree(environment)
        say("making the environment with " + wanted["python"])
        make = from_store if "uv" in wanted else from_index
        make(environment, wanted)
        mark_installed(installed)


def mark_installed(path: str) -> None:
    """Say that all packages are there, once they are on the disk: a power cut keeps that order."""
    folder = os.path.dirname(path)
    sync_all(folder)
    with open(path, "w") as stream:
        stream.write("all packages; complete.json says that they were proved\n")
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(folder)


if __name__ == "__main__":
    create(json.loads(sys.argv[2]))
