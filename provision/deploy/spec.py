"""What environment every host is to have: pinned packages, a torch, the DeepSpeed wheel. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from provision.build.manifest import WheelManifest
from provision.errors import ConfigError

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """An environment, to the byte.

    ``requirements`` is a pip requirements file in which every line has hashes: the project's lock,
    then the very torch files that the wheel was built against. The wheel itself is ``wheel``,
    a local file. ``name`` is the environment's name on every host: a hash over all of it.
    """

    name: str
    requirements: str
    wheel: Path
    manifest: WheelManifest

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


def make_env_spec(lock: str, manifest: WheelManifest, wheel: Path) -> EnvSpec:
    """The environment for a wheel: ``lock`` is the text of locks/train.lock.

    Raises ConfigError if the manifest does not say which torch files it was built against.
    """
    locked = {canonicalize_name(name) for name in _PINNED.findall(lock)}
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
    digest = hashlib.sha256(f"{text}\n{manifest.sha256}\n{manifest.python_tag}".encode())
    return EnvSpec(name=digest.hexdigest()[:16], requirements=text, wheel=wheel, manifest=manifest)


def read_env_spec(checkout: Path, wheels: Path, manifest: WheelManifest) -> EnvSpec:
    """The environment of this checkout's lock with a built wheel."""
    lock = (checkout / "locks" / "train.lock").read_text(encoding="utf-8")
    return make_env_spec(lock, manifest, wheels / manifest.wheel)
