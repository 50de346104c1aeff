"""What environment every host is to have: pinned packages, a torch, the wheels. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision.deploy.env_lock import require_fits
from provision.deploy.platform import Platform
from provision.deploy.wheelhouse import parse_pins
from provision.errors import ConfigError
from provision.wheel.extra import ExtraWheel, read_extras
from provision.wheel.manifest import WheelManifest

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """An environment, to the byte.

    ``requirements`` is a pip requirements file in which every line has hashes: the project's lock,
    then the very torch files that the wheel was built against. The wheel itself is ``wheel``,
    a local file; ``extras`` lie beside it, and the lock's packages of their names are left out.
    ``name`` is the environment's name on every host: a hash over all of it. ``over``: paths of the
    hosts' own Pythons, whose packages it is put over; ``requirements`` is then empty.
    """

    name: str
    requirements: str
    wheel: Path
    manifest: WheelManifest
    extras: tuple[ExtraWheel, ...] = ()
    over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join([self.manifest.wheel, *map(str, self.extras)])

    @property
    def wheels(self) -> tuple[WheelManifest | ExtraWheel, ...]:
        """What is pushed: DeepSpeed's wheel, and the extra ones."""
        return (self.manifest, *self.extras)

    @property
    def requirements_sha256(self) -> str:
        """sha256 of the requirements text."""
        return hashlib.sha256(self.requirements.encode()).hexdigest()

    @property
    def proof(self) -> dict[str, Any]:
        """What onhost/prove.py is asked of this environment."""
        return {
            "name": self.name,
            "torch": self.manifest.torch,
            "accelerator": self.manifest.accelerator,
            "ops": list(self.manifest.ops),
            "wheel": self.manifest.wheel,
            "wheel_sha256": self.manifest.sha256,
        }

    @property
    def versions(self) -> dict[str, str]:
        """Every distribution of the environment by its canonical name → its version."""
        pins = parse_pins(self.requirements, platform_for(self.manifest))
        own = {extra.name: extra.version for extra in self.extras}
        return (
            {pin.name: pin.version for pin in pins} | {"deepspeed": self.manifest.deepspeed} | own
        )


def platform_for(manifest: WheelManifest) -> Platform:
    """The oldest platform that a wheel runs on, as its manifest has it."""
    major, minor = manifest.glibc.split(".")[:2]
    machine = manifest.platform.removeprefix("linux_")
    return Platform(machine=machine, glibc=(int(major), int(minor)), python_tag=manifest.python_tag)


def make_env_spec(
    lock: str, manifest: WheelManifest, wheel: Path, extras: tuple[ExtraWheel, ...] = ()
) -> EnvSpec:
    """The environment for a wheel: ``lock`` is the text of a lock, such as locks/train.lock.

    Raises ConfigError if the manifest does not say which torch files it was built against, or an
    extra wheel needs what the environment will not have.
    """
    own = {extra.name for extra in extras}
    lock = without(lock, own)
    locked = {canonicalize_name(name) for name, _version in _PINNED.findall(lock)} | own
    lines = [
        f"{package.name}=={package.version} --hash=sha256:{package.sha256}"
        for package in manifest.requires
        if canonicalize_name(package.name) not in locked
    ]
    if not any(line.startswith("torch==") for line in lines):
        raise ConfigError(
            f"manifest of {manifest.wheel}",
            found="no torch in its list of requirements",
            expected="the torch files that the wheel was built against",
            remedy="build the wheel again: invoke build-deepspeed",
        )
    text = lock.rstrip("\n") + "\n\n# What the wheel was built against:\n" + "\n".join(lines) + "\n"
    _require_satisfied(extras, text, manifest)
    parts = [text, manifest.sha256, manifest.python_tag, *(extra.sha256 for extra in extras)]
    return EnvSpec(
        name=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        requirements=text,
        wheel=wheel,
        manifest=manifest,
        extras=extras,
    )


def make_existing_spec(
    manifest: WheelManifest, wheel: Path, extras: tuple[ExtraWheel, ...], over: Collection[str]
) -> EnvSpec:
    """The wheels alone, over the packages of the hosts' own Pythons (their paths)."""
    paths = tuple(sorted(set(over)))
    parts = ["existing", manifest.sha256, *(extra.sha256 for extra in extras), *paths]
    return EnvSpec(
        name=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        requirements="",
        wheel=wheel,
        manifest=manifest,
        extras=extras,
        over=paths,
    )


def without(lock: str, names: Collection[str]) -> str:
    """A requirements file without some packages: their lines, and the indented ones below them."""
    kept, dropped = [], False
    for line in lock.splitlines(keepends=True):
        if not line[0].isspace():
            pinned = _PINNED.match(line)
            dropped = pinned is not None and canonicalize_name(pinned[1]) in names
        if not dropped:
            kept.append(line)
    return "".join(kept)


def _require_satisfied(
    extras: tuple[ExtraWheel, ...], requirements: str, manifest: WheelManifest
) -> None:
    """What pip would see to, but for --no-deps: what an extra wheel needs has to be there."""
    pins = [*_PINNED.findall(requirements), ("deepspeed", manifest.deepspeed)]
    pins += [(extra.name, extra.version) for extra in extras]
    there = {str(canonicalize_name(name)): version for name, version in pins}
    for extra in extras:
        for requirement in _required(extra, manifest):
            found = there.get(canonicalize_name(requirement.name), "")
            if not found or not requirement.specifier.contains(found, prereleases=True):
                raise ConfigError(
                    f"{extra.wheel}, in place of the locked {extra.name}",
                    found=f"{requirement.name} {found}" if found else f"no {requirement.name}",
                    expected=f"{requirement}, which it requires",
                    remedy="make a lock that has it (invoke lock-env), or take the wheel away",
                )


def _required(extra: ExtraWheel, manifest: WheelManifest) -> list[Requirement]:
    """Its requirements that count on the hosts: those without an extra."""
    markers = platform_for(manifest).markers
    found = [Requirement(text) for text in extra.requires]
    return [one for one in found if one.marker is None or one.marker.evaluate(markers)]


def read_env_lock(path: Path) -> str:
    """The text of a lock; ConfigError if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"lock {path}",
            found=error.strerror if isinstance(error, OSError) else "not UTF-8 text",
            expected="a lock of packages, with hashes",
            remedy="make it (invoke lock-env), or name yours with --env-lock FILE",
        ) from None


def read_env_spec(lock: Path, wheels: Path, manifest: WheelManifest) -> EnvSpec:
    """The environment of a lock with a built wheel, and the extra ones beside it."""
    text = read_env_lock(lock)
    require_fits(text, manifest, str(lock))
    return make_env_spec(text, manifest, wheels / manifest.wheel, read_extras(wheels))
