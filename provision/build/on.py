"""A build on one of the hosts: the same commands, sent there, run there; the wheel comes back.

The oldest host makes the wheel that fits all. Nothing of the build is written a second time for
this: the checkout's own ``provision/`` travels, ``./zf build-deepspeed`` makes its environment
there and does all else, the proof included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from provision.build.bundle import Bundle, read_controller, read_folder
from provision.build.reply import Built, parse_reply
from provision.errors import ConfigError, HostError, ProvisionError
from provision.fleet import Fleet
from provision.script import parse_answer, passing_on, script_argv
from provision.session import Remote
from provision.steps import Phase, Plan, Put, Run, Step
from provision.wheel.extra import apply_publish
from provision.wheel.manifest import apply_manifest, sha256_of

#: Below a host's home: the checkouts that were sent there, and the wheels they built.
CONTROLLERS, SOURCES, WHEELS = (
    ".zerofleet/controllers",
    ".zerofleet/sources",
    ".zerofleet/wheels",
)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """The host that builds.

    Attributes:
        home: absolute.
        python: the interpreter that runs the build and that the wheel is for.
        tag: that interpreter's wheel tag.
        store: what its ``~/.zerofleet/store`` holds already, as ``sha256/name``.
    """

    host: str
    home: str
    python: str
    tag: str
    store: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What travels: this checkout, and sources that lie here: folders packed, archives as they are.

    Attributes:
        lock: sha256 of locks/controller.lock, which names the environment that zf makes there.
        source: of ``--source``.
        extras: of ``--with-source``.
    """

    controller: Bundle
    lock: str
    source: Bundle | Path | None
    extras: tuple[Bundle | Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OnPlan:
    """A build on a host, decided. ``steps`` is what a person sees and what is applied."""

    builder: Builder
    steps: Plan


def read_cargo(checkout: Path, source: str | None, extras: tuple[Bundle | Path, ...] = ()) -> Cargo:
    """Pack what a host needs to build; ``source`` is ``--source`` as given.

    Raises:
        ConfigError: nothing lies at ``source``.
    """
    packed: Bundle | Path | None = None
    if source:
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise ConfigError(
                f"--source {source}",
                found="no such file or folder",
                expected="a DeepSpeed source here, to be sent to the host",
                remedy="give the folder that holds setup.py and version.txt",
            )
        packed = read_folder(path) if path.is_dir() else path
    return Cargo(
        controller=read_controller(checkout),
        lock=sha256_of(checkout / "locks" / "controller.lock"),
        source=packed,
        extras=extras,
    )


def plan_on(builder: Builder, flags: Mapping[str, Any], cargo: Cargo) -> OnPlan:
    """Push what the host lacks, then run ``./zf build-deepspeed`` with these flags there.

    Raises:
        ConfigError: ``--cpu native``: this machine, or the host?
    """
    if flags.get("cpu") == "native":
        raise ConfigError(
            "--cpu native",
            found=f"--on {builder.host}",
            expected="a level by its name",
            remedy="name the level that every host has, or leave --cpu out",
        )
    code = f"{CONTROLLERS}/{cargo.controller.sha256[:16]}"
    puts = [_put(cargo.controller)]
    unpack = [[puts[0].target, puts[0].sha256, code]]
    there: list[str] = []
    for source in (*cargo.extras, *([cargo.source] if cargo.source else [])):
        put = _put(source)
        puts.append(put)
        path = put.target
        if isinstance(source, Bundle):
            folder = f"{SOURCES}/{source.sha256[:16]}"
            unpack.append([put.target, put.sha256, folder])
            path = f"{folder}/{source.name.removesuffix('.tar.gz')}"
        there.append(f"{builder.home}/{path}")
    flags = dict(flags)
    flags["source"] = there.pop() if cargo.source else None
    flags["with_source"] = ",".join(there)
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value]
    command = ["sh", f"{builder.home}/{code}/zf", "build-deepspeed", *given]
    wanted = {
        "unpack": unpack,
        "argv": [*command, f"--wheels={builder.home}/{WHEELS}", "--json"],
        "environ": {
            "ZEROFLEET_PYTHON": builder.python,
            "ZEROFLEET_VENV": f"{builder.home}/{CONTROLLERS}/{builder.tag}-{cargo.lock[:12]}",
        },
    }
    return OnPlan(builder=builder, steps=_steps(builder, puts, wanted, given))


def _put(cargo: Bundle | Path) -> Put:
    if isinstance(cargo, Bundle):
        return Put(
            target=f".zerofleet/store/{cargo.sha256}/{cargo.name}",
            sha256=cargo.sha256,
            size=len(cargo.content),
            content=cargo.content,
        )
    sha256 = sha256_of(cargo)
    return Put(
        target=f".zerofleet/store/{sha256}/{cargo.name}",
        sha256=sha256,
        size=cargo.stat().st_size,
        source=cargo,
    )


def _steps(builder: Builder, puts: list[Put], wanted: object, given: list[str]) -> Plan:
    host = builder.host
    push = tuple(
        Step(host=host, do=put, why="the host builds with this checkout's own code")
        for put in puts
        if put.target.removeprefix(".zerofleet/store/") not in builder.store
    )
    title = " ".join([f"./zf build-deepspeed {' '.join(given)}".strip(), f"({builder.python})"])
    run = Run(argv=script_argv("build", [json.dumps(wanted)]), title=title)
    why = f"the wheel comes here; the build cache there stays (~/.cache/zerofleet on {host})"
    phases = (
        Phase(name="push", steps=push),
        Phase(name="build", steps=(Step(host=host, do=run, why=why),)),
    )
    return Plan(title=f"build on {host}", phases=tuple(phase for phase in phases if phase.steps))


def apply_on(fleet: Fleet, plan: OnPlan, out: Path, say: Callable[[str], None]) -> Built:
    """Build on the host and bring wheel and manifest to ``out``, each whole or not at all.

    Raises:
        ProvisionError: the build's own error, with the host named; or the host gave no answer.
        UnreachableError: the connection was lost; the host ends the build.
    """
    host = plan.builder.host
    *before, build = plan.steps.phases
    fleet.apply(Plan(title=plan.steps.title, phases=tuple(before)), say)
    (step,) = build.steps
    assert isinstance(step.do, Run)
    argv = step.do.argv

    def call(remote: Remote) -> Built:
        _code, stdout, stderr = remote.run(argv, passing_on(host, say))
        built = parse_reply(host, parse_answer(host, stdout, stderr))
        if built.manifest is not None:
            _apply_bring(remote, f"{plan.builder.home}/{WHEELS}", built, out, say)
        return built

    outcome = fleet.fan_out(call, (host,))[host]
    if isinstance(outcome, ProvisionError):
        raise outcome
    return outcome


def _apply_bring(
    remote: Remote, folder: str, built: Built, out: Path, say: Callable[[str], None]
) -> None:
    """What was built, from the host's folder of wheels to ``out``, manifests included."""
    assert built.manifest is not None
    for extra in built.extras:
        with _fetched(remote, f"{folder}/{extra.wheel}", extra.sha256, out) as incoming:
            apply_publish(extra, incoming, out)
    manifest = built.manifest
    with _fetched(remote, f"{folder}/{manifest.wheel}", manifest.sha256, out) as incoming:
        incoming.replace(out / manifest.wheel)
    apply_manifest(manifest, out)
    say(f"wrote {out / manifest.wheel}, built and proved on {remote.label}")


@contextmanager
def _fetched(remote: Remote, source: str, sha256: str, out: Path) -> Iterator[Path]:
    """A file of the host beside its place here, under a name of its own, if its hash is right."""
    incoming = out / f".{PurePosixPath(source).name}.{os.getpid()}"
    try:
        remote.get(source, incoming)
        if (found := sha256_of(incoming)) != sha256:
            raise HostError(
                f"{remote.label}: {source} as it came here",
                found=f"sha256 {found[:12]}…",
                expected=f"{sha256[:12]}…, as built there",
                remedy="run the command again",
            )
        yield incoming
    finally:
        incoming.unlink(missing_ok=True)
        incoming.with_name(incoming.name + ".partial").unlink(missing_ok=True)
