"""Bring the wheels that are not here yet, by pip, for the hosts' platform; each checked by hash."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from provision.deploy.platform import Platform
from provision.deploy.wheelhouse import UV_LOCK, Pin, Wheelhouse, parse_pins, static_tags
from provision.errors import ConfigError
from provision.process import Command, apply_command

Say = Callable[[str], None]

#: Variables that would have pip do something else than download these files.
_MISLEADING = ("DRY_RUN", "NO_DEPS", "PLATFORM", "PREFIX", "PYTHON", "QUIET", "REPORT", "ROOT",
               "TARGET", "USER", "VERBOSE")  # fmt: skip
#: Seconds without a line of pip after which we say that it is at work.
_QUIET_SECONDS = 5.0


def apply_fetch(folder: Path, house: Wheelhouse, say: Say) -> None:
    """Have everything in ``folder`` that ``house`` misses.

    pip keeps what it downloaded in its own cache, so an interrupted fetch goes on from there.

    Raises:
        ConfigError: pip found no file of these hashes for the platform, or could not bring it.
    """
    if not house.missing and not house.uv_missing:
        return
    with _locked(folder, say) as staging:
        if house.missing:
            names = ", ".join(map(str, house.missing[:5]))
            more = f" and {len(house.missing) - 5} more" if len(house.missing) > 5 else ""
            say(f"downloading {names}{more} for {house.platform}")
            _apply_pip(staging, house.missing, house.platform, house.platform.platforms, say)
        if house.uv_missing:
            uv = parse_pins(UV_LOCK.read_text(encoding="utf-8"), house.platform)
            say(f"downloading {uv[0]}")
            tags = [tag.platform for tag in static_tags(house.platform)]
            _apply_pip(staging, uv, house.platform, tags, say)
        _apply_keep(staging, folder)


@contextlib.contextmanager
def _locked(folder: Path, say: Say) -> Iterator[Path]:
    """An empty folder to download into, ours alone: gone at the end, or when the next begins."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / "staging"
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another command downloads to {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "tmp").mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def download_argv(
    requirements: Path, target: Path, python: str, platforms: Sequence[str]
) -> list[str]:
    """Pip's command for exactly these files, for another Python and system than this one."""
    argv = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--require-hashes"]
    argv += ["--disable-pip-version-check", "--progress-bar", "off", "--only-binary", ":all:"]
    argv += ["--implementation", "cp", "--python-version", python]
    for platform in platforms:
        argv += ["--platform", platform]
    return [*argv, "--dest", str(target), "--requirement", str(requirements)]


def _apply_pip(
    staging: Path, pins: Sequence[Pin], platform: Platform, platforms: Sequence[str], say: Say
) -> None:
    lock = staging / "requirements.txt"
    lock.write_text("".join(pin.line for pin in pins), encoding="utf-8")
    environ = {
        name: value
        for name, value in os.environ.items()
        if name.removeprefix("PIP_") not in _MISLEADING or not name.startswith("PIP_")
    }
    environ["TMPDIR"] = str(staging / "tmp")
    argv = download_argv(lock, staging / "wheels", platform.python, platforms)
    errors = _apply_followed(argv, environ, say)
    if errors:
        raise ConfigError(
            f"packages for {platform}",
            found="pip: " + " / ".join(errors)[:600],
            expected=f"the locked files of {len(pins)} packages",
            remedy="see what pip is configured to use here (pip config list), and the lock",
        )


def _apply_followed(argv: Sequence[str], environ: Mapping[str, str], say: Say) -> list[str]:
    """Run pip to its end, with progress; its errors if it failed."""
    said: list[str] = []

    def heard(line: str) -> None:
        said.append(line)
        name = line.strip().removeprefix("Downloading ")
        if name != line.strip():
            say(f"downloading {name.split(' ')[0].rpartition('/')[2]}")

    status = apply_command(
        Command(argv=tuple(argv), environ=environ),
        log=io.StringIO(),
        on_line=heard,
        on_idle=lambda seconds: say(f"pip is at work: {seconds:.0f} s"),
        idle_after=_QUIET_SECONDS,
    )
    if status == 0:
        return []
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    return errors or said[-2:] or [f"exit {status}"]


def _apply_keep(staging: Path, folder: Path) -> None:
    """Each file to its place, by the hash that pip found right and we find again."""
    for path in sorted((staging / "wheels").glob("*.whl")):
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())  # on the disk before it has its name, also after a power cut
        (folder / sha256).mkdir(exist_ok=True)
        path.replace(folder / sha256 / path.name)
