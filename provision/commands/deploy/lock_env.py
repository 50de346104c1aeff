"""lock-env's steps: the packages of the hosts' environment, resolved for them and pinned."""

from __future__ import annotations

import re

from provision.commands.connect import connected_fleet, gather_all
from provision.commands.deploy.package_lock import SHIPPED_LOCK, own_lock
from provision.commands.deploy.packages import wheelhouse_dir
from provision.deploy.env_lock import (
    compare_locks,
    make_constraints,
    make_request,
    parse_asked,
    plan_lock_env,
    render,
)
from provision.deploy.platform import Platform, oldest
from provision.deploy.resolve import apply_resolve, read_given
from provision.deploy.spec import make_env_spec, platform_for, read_env_lock
from provision.errors import ConfigError
from provision.files import apply_text
from provision.settings import CHECKOUT, Settings
from provision.show import Answer
from provision.wheel.extra import read_extras
from provision.wheel.manifest import WheelManifest, read_wheel

_BASE = CHECKOUT / "locks" / "train.in"


def gather_platform(out: Answer, s: Settings, manifest: WheelManifest) -> Platform:
    """What to lock for: the wheel's Python and machine, and the oldest glibc of the hosts."""
    wheel = platform_for(manifest)
    if s.glibc is None:
        with connected_fleet(s) as fleet:
            return oldest(gather_all(out, fleet), manifest.python_tag)
    found = re.fullmatch(r"2\.([0-9]{1,3})", s.glibc)
    if found is None or (2, int(found[1])) < wheel.glibc:
        raise ConfigError(
            "--glibc",
            found=s.glibc,
            expected=f"2.{wheel.glibc[1]} or newer, which the wheel needs",
            remedy="as ldd --version says it on the oldest host",
        )
    return Platform(machine=wheel.machine, glibc=(2, int(found[1])), python_tag=manifest.python_tag)


def read_asked(s: Settings, given: set[str]) -> tuple[str, ...]:
    """What is asked for beside locks/train.in, by --packages and --requirements."""
    asked = parse_asked("\n".join((s.packages or "").split()), "--packages", given)
    if s.requirements is None:
        return asked
    try:
        text = s.requirements.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "--requirements",
            found=f"{s.requirements}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}",
            expected="a file of packages, one a line",
            remedy="correct the path",
        ) from None
    return (*asked, *parse_asked(text, f"--requirements {s.requirements.name}", given))


def apply_lock_env(out: Answer, s: Settings) -> None:
    """Resolve what is asked for, for the hosts and the wheel; show what changes, and write it."""
    manifest, path = read_wheel(s.wheels, s.wheel), own_lock(s)
    extras = read_extras(s.wheels)
    given = read_given(manifest, s.wheels, extras)
    asked = read_asked(s, {one.name for one in given})
    before = read_env_lock(path if path.exists() else SHIPPED_LOCK)
    platform = gather_platform(out, s, manifest)
    pinned = apply_resolve(
        wheelhouse_dir(),
        make_request(_BASE.read_text(encoding="utf-8"), asked),
        make_constraints(manifest, before),
        before,
        platform,
        given,
        out.say,
        upgrade=s.upgrade,
    )
    text = render(pinned, asked, platform, manifest.torch)
    spec = make_env_spec(text, manifest, s.wheels / manifest.wheel, extras)
    changes = compare_locks(before, text, platform)
    plan = plan_lock_env(str(path), changes, same=path.exists() and before == text)
    out.add(lock=str(path), environment=spec.name, packages=len(spec.versions))
    out.add(changes=[change.as_json() for change in changes])
    out.plan(plan)
    if not plan.empty:
        apply_text(path, text, remedy="name another file with --env-lock")
    out.text("\n".join([*map(str, changes), f"{path}: {len(changes)} changes"]))
