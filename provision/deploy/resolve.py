"""Resolve requirements for the hosts' platform, which need not be this machine's, to pinned lines.

uv does it, the same pinned program that makes environments on hosts. pip can't: `pip install
--dry-run --report` judges markers and Requires-Python by the Python that it runs in, whatever
--python-version says (https://github.com/pypa/pip/issues/11664), and it downloads whole wheels.
But the user's pip configuration says where packages come from; they are downloaded by it later
(wheelhouse.py), and uv does not read it. So uv is told what pip would go by.
"""

from __future__ import annotations

import ast
import io
import os
import platform as system
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.deploy.fetch import Say, apply_fetch
from provision.deploy.platform import Platform
from provision.deploy.wheelhouse import read_wheelhouse
from provision.errors import ConfigError
from provision.process import Command, apply_command
from provision.wheel.extra import ExtraWheel
from provision.wheel.manifest import WheelManifest

#: The glibcs that uv resolves for: `uv pip compile --help`, --python-platform.
_GLIBCS = ((2, 17), (2, 28), *((2, minor) for minor in range(31, 41)))
_MACHINES = ("x86_64", "aarch64")
#: pip's setting → uv's variable. https://docs.astral.sh/uv/reference/environment/
_AS_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "keyring-provider": "UV_KEYRING_PROVIDER",
}
#: Of these, a list of several.
_SEPARATORS = {"extra-index-url": " ", "find-links": ",", "trusted-host": " "}
#: Seconds without a word after which we say that it is at work.
_QUIET_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Given:
    """A distribution that comes as a wheel from here: whoever needs it gets this version."""

    name: str
    version: str
    metadata: bytes


def read_given(manifest: WheelManifest, wheels: Path, extras: Sequence[ExtraWheel]) -> list[Given]:
    """The torch that the wheel was built against; our wheels, and what they require."""
    torch = f"Metadata-Version: 2.1\nName: torch\nVersion: {manifest.torch_dist}\n"
    found = [Given(name="torch", version=manifest.torch_dist, metadata=torch.encode())]
    own = [("deepspeed", manifest.deepspeed, manifest.wheel)]
    for name, version, wheel in own + [(one.name, one.version, one.wheel) for one in extras]:
        with zipfile.ZipFile(wheels / wheel) as archive:
            (inner,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            found.append(Given(name=name, version=version, metadata=archive.read(inner)))
    return found


def parse_pip_settings(listed: str) -> dict[str, str]:
    """Of ``pip config list``, what `pip download` would go by: its section over the global one,
    and PIP_ variables over both.
    """
    found: dict[str, str] = {}
    lines = [line.partition("=") for line in listed.splitlines() if "=" in line]
    for section in ("global.", "download.", ":env:."):
        for key, _, value in lines:
            if key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def uv_environ(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for uv: none that steer it so far, and what pip is configured to go by."""
    kept = {k: v for k, v in environ.items() if not k.startswith(("UV_", "VIRTUAL_ENV", "CONDA_"))}
    kept["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip: the best of all indexes
    for key, name in _AS_UV.items():
        if key in settings:
            parts = settings[key].split() if key in _SEPARATORS else [settings[key]]
            kept[name] = _SEPARATORS.get(key, "").join(parts)
    if "proxy" in settings:
        kept["HTTP_PROXY"] = kept["HTTPS_PROXY"] = settings["proxy"]
    return kept


def compile_argv(
    uv: Path, platform: Platform, given: Sequence[Given], *, upgrade: bool
) -> list[str]:
    """The command; it is run in a folder with asked.txt, constraints.txt and the lock so far."""
    fitting = [glibc for glibc in _GLIBCS if glibc <= platform.glibc]
    if not fitting or platform.machine not in _MACHINES:
        raise ConfigError(
            "platform to lock for",
            found=str(platform),
            expected=f"Linux with glibc 2.17 or newer on {' or '.join(_MACHINES)}",
            remedy="use a newer OS on the hosts",
        )
    target = "{}-manylinux_{}_{}".format(platform.machine, *fitting[-1])
    argv = [str(uv), "pip", "compile", "asked.txt", "--constraints", "constraints.txt"]
    argv += ["--output-file", "lock.txt", "--generate-hashes", "--no-header", "--no-annotate"]
    argv += ["--python-version", platform.python, "--python-platform", target]
    argv += ["--python", sys.executable, "--no-python-downloads", "--only-binary", ":all:"]
    argv += ["--no-config", "--color", "never", "--no-progress", "--quiet"]
    for one in given:
        argv += ["--no-emit-package", one.name]
    return [*argv, "--upgrade"] if upgrade else argv


def apply_unpacked_uv(wheelhouse: Path, folder: Path, say: Say) -> Path:
    """The pinned uv as a program in ``folder``, downloaded if it is not in the wheelhouse."""
    machine = system.machine()
    if sys.platform != "linux" or machine not in _MACHINES:
        raise ConfigError(
            "lock-env",
            found=f"{sys.platform} on {machine}",
            expected=f"a controller with Linux on {' or '.join(_MACHINES)}",
            remedy="run it on one of the hosts, or in a container",
        )
    # Linked statically: only the machine counts.
    here = Platform(machine=machine, glibc=(2, 17), python_tag="cp311")
    apply_fetch(wheelhouse, read_wheelhouse(wheelhouse, "", here), say)
    uv = read_wheelhouse(wheelhouse, "", here).uv
    assert uv is not None, "apply_fetch raises where it brings none"
    target = folder / "uv"
    with zipfile.ZipFile(uv.path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".data/scripts/uv"))
        target.write_bytes(archive.read(name))
    target.chmod(0o700)
    return target


def apply_resolve(
    wheelhouse: Path,
    request: str,
    constraints: str,
    lock: str,
    platform: Platform,
    given: Sequence[Given],
    say: Say,
    *,
    upgrade: bool,
) -> str:
    """Pinned lines with hashes for a request; versions of ``lock`` stay where they can.

    Raises:
        ConfigError: there is no such set of packages, in the resolver's own words.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    environ = uv_environ(parse_pip_settings(listed.stdout), os.environ)
    with tempfile.TemporaryDirectory(prefix="zerofleet-lock-") as name:
        folder = Path(name)
        uv = apply_unpacked_uv(wheelhouse, folder, say)
        argv = compile_argv(uv, platform, given, upgrade=upgrade)
        lines = [f"{one.name} @ {_apply_stub(folder, one).as_uri()}\n" for one in given]
        (folder / "asked.txt").write_text(request + "".join(lines), encoding="utf-8")
        (folder / "constraints.txt").write_text(constraints, encoding="utf-8")
        (folder / "lock.txt").write_text(lock, encoding="utf-8")
        environ["UV_CACHE_DIR"] = str(wheelhouse.parent / "uv")
        say(f"resolving for {platform}, torch {given[0].version}")
        said = _apply_uv(argv, folder, environ, say)
        if said is not None:
            raise ConfigError(
                "packages",
                found=in_words(said),
                expected=f"one set of wheels that fits {platform}, torch {given[0].version}",
                remedy="ask for others; what you ask for replaces what locks/train.in says of it",
            )
        return (folder / "lock.txt").read_text(encoding="utf-8")


def _apply_uv(
    argv: Sequence[str], folder: Path, environ: Mapping[str, str], say: Say
) -> str | None:
    """Run uv to its end in a folder; what it said if it failed."""
    said = io.StringIO()
    status = apply_command(
        Command(argv=tuple(argv), environ=environ, cwd=folder),
        log=said,
        on_idle=lambda seconds: say(f"uv is at work: {seconds:.0f} s"),
        idle_after=_QUIET_SECONDS,
    )
    return said.getvalue() if status else None


def _apply_stub(folder: Path, given: Given) -> Path:
    """A wheel of nothing but what ``given`` says of itself: all that a resolver looks at."""
    path = folder / f"{given.name.replace('-', '_')}-{given.version}-py3-none-any.whl"
    info = f"{given.name.replace('-', '_')}-{given.version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", given.metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def in_words(said: str) -> str:
    """What uv explains, as one line: without its frame, and without the addresses of our stubs."""
    words = " ".join(said.partition("hint: ")[0].translate({ord(c): " " for c in "×╰─▶│├"}).split())
    words = words.removeprefix("error: ").replace(" cause: ", ": ")
    while " @ file://" in words:
        before, _, after = words.partition(" @ file://")
        words = before + after[len(after.split(" ")[0].rstrip(",.")) :]
    return urllib.parse.unquote(words).rstrip(".")[:1000] or "no word of uv"
