"""A lock of the hosts' packages: made from what, for what, and what changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.deploy.platform import Platform
from provision.deploy.wheelhouse import parse_pins
from provision.errors import ConfigError
from provision.steps import Phase, Plan, Run, Step
from provision.wheel.manifest import WheelManifest

_FOR = re.compile(
    r"^# for (?P<machine>\S+), glibc \S+, Python (?P<python>\S+), torch (\S+)$", re.MULTILINE
)
#: In place of a host's name: the controller.
_HERE = "this machine"


def parse_asked(packages: str, origin: str, given: Collection[str]) -> tuple[str, ...]:
    """Requirements, one a line, as a user asks for them; ``origin`` is how errors call the text.

    ``given``: canonical names of what comes with the wheels, and can't be asked for.

    Raises:
        ConfigError: a line is no requirement by name and version, or asks for what is given.
    """
    asked = []
    for raw in packages.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            requirement = None
        if requirement is None or requirement.url:
            raise ConfigError(
                origin,
                found=repr(line[:80]),
                expected="a package by name and version, as in einops>=0.8",
                remedy="name a release; a folder of source: build-deepspeed --with-source FOLDER",
            )
        if canonicalize_name(requirement.name) in given:
            raise ConfigError(
                origin,
                found=line,
                expected="packages beside those that come as wheels from here",
                remedy="build the wheel that you want: invoke build-deepspeed",
            )
        asked.append(str(requirement))
    return tuple(asked)


def make_request(base: str, asked: Sequence[str]) -> str:
    """The requirements to resolve: those of ``base`` (locks/train.in), then what is asked for.

    A package that is asked for takes the place of base's line about it.
    """
    own = {canonicalize_name(Requirement(line).name) for line in asked}
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in base.splitlines()]
    kept = [line for line in lines if line and canonicalize_name(Requirement(line).name) not in own]
    return "".join(f"{line}\n" for line in (*kept, *asked))


def make_constraints(manifest: WheelManifest, lock: str) -> str:
    """What torch pulled in when the wheel was built, and no lock pins: it is installed as it was.

    A CUDA build's libraries and triton: another package may ask for them, in this version only.
    """
    found = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    named = {canonicalize_name(name) for name in (*found, "torch")}
    return "".join(
        f"{one.name}=={one.version}\n"
        for one in manifest.requires
        if canonicalize_name(one.name) not in named
    )


def render(pinned: str, asked: Sequence[str], platform: Platform, torch: str) -> str:
    """The lock's text: pins with hashes, and above them what they are for."""
    also = f" and: {', '.join(asked)}" if asked else ""
    return (
        "# The packages of the hosts' environment, by `invoke lock-env`. torch and DeepSpeed come\n"
        "# with the wheel.\n"
        f"# asked for: locks/train.in{also}\n"
        f"# for {platform}, torch {torch}\n"
        f"{pinned}"
    )


def require_fits(lock: str, manifest: WheelManifest, name: str) -> None:
    """Raise ConfigError for a lock that says it was made for another Python, machine or torch.

    One that does not say so is of any: its hashes and markers decide.
    """
    found = _FOR.search(lock)
    if found is None:
        return
    python = f"{manifest.python_tag[2]}.{manifest.python_tag[3:]}"
    machine = manifest.platform.removeprefix("linux_")
    torch = Version(found[3]).public
    if (found["machine"], found["python"], torch) != (
        machine,
        python,
        Version(manifest.torch).public,
    ):
        raise ConfigError(
            name,
            found=f"a lock for {found['machine']}, Python {found['python']}, torch {found[3]}",
            expected=f"{machine}, Python {python}, torch {manifest.torch}: {manifest.wheel}",
            remedy="make it anew: invoke lock-env",
        )


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one package differs between two locks: its version before and after; None: not there."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"add {self.name} {self.new}"
        if self.new is None:
            return f"remove {self.name} {self.old}"
        return f"{self.name} {self.old} -> {self.new}"

    def as_json(self) -> dict[str, str | None]:
        """The change for ``--json``."""
        return {"name": self.name, "old": self.old, "new": self.new}


def compare_locks(old: str, new: str, platform: Platform) -> tuple[Change, ...]:
    """What differs between two locks on a platform, by name."""
    before, after = (versions(text, platform) for text in (old, new))
    return tuple(
        Change(name=name, old=before.get(name), new=after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def versions(lock: str, platform: Platform) -> Mapping[str, str]:
    """Package → version, of a lock's lines that count on a platform."""
    return {pin.name: pin.version for pin in parse_pins(lock, platform)}


def plan_lock_env(path: str, changes: Sequence[Change], *, same: bool) -> Plan:
    """The changes, and the file they are written to; empty where the file says all this already."""
    why = "against the lock so far"
    steps = [Step(host=_HERE, do=Run(argv=(), title=str(one)), why=why) for one in changes]
    write = Step(host=_HERE, do=Run(argv=(), title=f"write {path}"), why="deploy takes it")
    phases = () if same else (Phase(name="lock", steps=(*steps, write)),)
    return Plan(title=f"lock {path}", phases=phases)
