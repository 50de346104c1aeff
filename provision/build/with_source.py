"""``--with-source``: which other Python projects are to become wheels, and which are already."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

from provision.build.bundle import Bundle, read_folder
from provision.build.cache import key_of
from provision.build.plan import BuildPlan
from provision.build.state import EPOCH
from provision.build.toolchain import HERE
from provision.errors import ConfigError
from provision.steps import Phase, Plan, Run, Step
from provision.wheel.extra import ExtraWheel
from provision.wheel.manifest import sha256_of


@dataclass(frozen=True, kw_only=True)
class ExtraSource:
    """A project's source, read. ``folder`` is it packed, where it is no archive already."""

    path: Path
    sha256: str
    folder: Bundle | None


@dataclass(frozen=True, kw_only=True)
class ExtraPlan:
    """One extra wheel: its source, and the wheel that is there already, if it is."""

    source: ExtraSource
    key: str
    ready: ExtraWheel | None


def read_sources(text: str | None) -> tuple[ExtraSource, ...]:
    """The sources that ``--with-source`` names: folders or archives, separated by commas.

    Raises:
        ConfigError: one is not there, or no Python project.
    """
    names = [name.strip() for name in (text or "").split(",")]
    return tuple(_read_source(name) for name in names if name)


def _read_source(name: str) -> ExtraSource:
    path = Path(name).expanduser().resolve()
    if path.is_dir() and any((path / one).is_file() for one in ("pyproject.toml", "setup.py")):
        folder = read_folder(path)
        return ExtraSource(path=path, sha256=folder.sha256, folder=folder)
    if path.is_file() and tarfile.is_tarfile(path):
        return ExtraSource(path=path, sha256=sha256_of(path), folder=None)
    found = "no archive that tar can read" if path.is_file() else "no such file or folder"
    if path.is_dir():
        found = "a folder without pyproject.toml or setup.py"
    raise ConfigError(
        f"--with-source {name}",
        found=found,
        expected="the source folder of a Python project, or its .tar.gz",
        remedy="for a release: pip download --no-deps --no-binary NAME NAME==VERSION, unpacked",
    )


def plan_extras(
    plan: BuildPlan, sources: tuple[ExtraSource, ...], there: tuple[ExtraWheel, ...]
) -> tuple[ExtraPlan, ...]:
    """What of the extra wheels is still to be built, with those that the out folder holds."""
    by_key = {extra.key: extra for extra in there}
    keys = [_key(plan, source) for source in sources]
    return tuple(
        ExtraPlan(source=source, key=key, ready=by_key.get(key))
        for source, key in zip(sources, keys, strict=True)
    )


def _key(plan: BuildPlan, source: ExtraSource) -> str:
    return key_of(
        {
            "epoch": EPOCH,
            "lock": plan.state.lock_sha256,
            "python": plan.python.tag,
            "source": [source.path.name, source.sha256],
            "torch": str(plan.spec.torch),
        }
    )


def with_extras(steps: Plan, extras: tuple[ExtraPlan, ...]) -> Plan:
    """A build's plan, and after it what builds the extra wheels."""
    todo = tuple(
        Step(
            host=HERE,
            do=Run(argv=(), title=f"build a wheel of {extra.source.path.name}"),
            why="deploy installs it in place of the locked package of that name",
        )
        for extra in extras
        if extra.ready is None
    )
    return (
        replace(steps, phases=(*steps.phases, Phase(name="extra", steps=todo))) if todo else steps
    )
