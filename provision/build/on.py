"""A build on one of the hosts: the same commands, sent there, run there; the wheel comes back.

The oldest host makes the wheel that fits all. Nothing of the build is written a second time for
this: the checkout's own ``provision/`` travels, ``./zf build-deepspeed`` makes its environment
there and does all else, the proof included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision import errors
from provision.build.bundle import Bundle, read_controller, read_folder
from provision.build.manifest import WheelManifest, apply_manifest, parse_manifest, sha256_of
from provision.build.toolchain import HERE
from provision.errors import BuildError, ConfigError, HostError, ProvisionError
from provision.findings import Finding, Level, Report
from provision.fleet import Fleet
from provision.remote import Remote
from provision.script import parse_answer, script_argv
from provision.steps import Phase, Plan, Put, Run, Step

#: Below a host's home: the checkouts that were sent there, and the wheels they built.
CONTROLLERS, SOURCES, WHEELS = (
    ".zerofleet/controllers",
    ".zerofleet/sources",
    ".zerofleet/wheels",
)

#: What a line of progress begins with.
PROGRESS = "ZEROFLEET-SAY "


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
    """What travels: this checkout, and where it is a local folder or file, the source to build.

    Attributes:
        lock: sha256 of locks/controller.lock, which names the environment that zf makes there.
        source: of ``--source``: a folder, packed, or an archive as it is.
    """

    controller: Bundle
    lock: str
    source: Bundle | Path | None


@dataclass(frozen=True, kw_only=True)
class OnPlan:
    """A build on a host, decided. ``steps`` is what a person sees and what is applied."""

    builder: Builder
    steps: Plan


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the host answered: the wheel, now in the local folder, or why there is none."""

    report: Report
    manifest: WheelManifest | None


def read_cargo(checkout: Path, source: str | None) -> Cargo:
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
    )


def plan_on(builder: Builder, flags: Mapping[str, Any], cargo: Cargo) -> OnPlan:
    """Push what the host lacks, then run ``./zf build-deepspeed`` with these flags there."""
    puts = [_put(cargo.controller)]
    code = f"{CONTROLLERS}/{cargo.controller.sha256[:16]}"
    unpack = [[puts[0].target, puts[0].sha256, code]]
    flags = dict(flags)
    if cargo.source is not None:
        puts.append(_put(cargo.source))
        flags["source"] = f"{builder.home}/{puts[1].target}"
    if isinstance(cargo.source, Bundle):
        folder = f"{SOURCES}/{cargo.source.sha256[:16]}"
        unpack.append([puts[1].target, puts[1].sha256, folder])
        flags["source"] = f"{builder.home}/{folder}/{cargo.source.name.removesuffix('.tar.gz')}"
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

    def heard(line: str) -> None:
        if line.startswith(PROGRESS):
            say(f"[{host}] {line.removeprefix(PROGRESS)}")

    def call(remote: Remote) -> Built:
        _code, stdout, stderr = remote.run(argv, heard)
        report, manifest, path = parse_reply(host, parse_answer(host, stdout, stderr))
        if manifest is not None:
            _apply_fetch(remote, path, manifest, out)
            say(f"wrote {out / manifest.wheel}, built and proved on {host}")
        return Built(report=report, manifest=manifest)

    outcome = fleet.fan_out(call, (host,))[host]
    if isinstance(outcome, ProvisionError):
        raise outcome
    return outcome


def parse_reply(host: str, reply: Mapping[str, Any]) -> tuple[Report, WheelManifest | None, str]:
    """The answer of onhost/build.py → findings, the wheel's manifest and its path on the host.

    Raises:
        ProvisionError: the build ended with an error, or without any answer.
    """
    answer = reply.get("answer")
    if not isinstance(answer, Mapping):
        raise HostError(
            f"build on {host}",
            found=reply.get("last") or f"exit {reply.get('code')} and no word",
            expected="a wheel",
            remedy=f"try it there: ssh {host}, then ./zf in ~/{CONTROLLERS}/…",
        )
    if "error" in answer:
        raise _error(host, int(answer["exit"]), answer["error"])
    report = Report(findings=tuple(_finding(host, one) for one in answer.get("findings", ())))
    if "manifest" not in answer:
        return report, None, ""
    text = json.dumps(answer["manifest"])
    manifest = parse_manifest(text, name=f"manifest of {host}'s wheel")
    return report, replace(manifest, cached=bool(answer["cached"])), str(answer["wheel"])


def _error(host: str, code: int, error: Mapping[str, str]) -> ProvisionError:
    kinds = {errors.USAGE: ConfigError, errors.BUILD_FAILED: BuildError}
    parts = {key: str(error[key]) for key in ("found", "expected", "remedy")}
    return kinds.get(code, HostError)(f"[{host}] {error['what']}", **parts)


def _finding(host: str, values: Mapping[str, str]) -> Finding:
    own = {**values, "level": Level(values["level"])}
    if values["host"] == HERE:
        own["host"] = host
    return Finding(**own)  # type: ignore[arg-type]


def _apply_fetch(remote: Remote, source: str, manifest: WheelManifest, out: Path) -> None:
    """The wheel at ``source`` there to ``out`` here, with its manifest, if its hash is right."""
    target = out / manifest.wheel
    if target.is_file() and sha256_of(target) == manifest.sha256:
        apply_manifest(manifest, out)
        return
    incoming = out / f".{manifest.wheel}.{os.getpid()}"
    try:
        remote.get(source, incoming)
        if (found := sha256_of(incoming)) != manifest.sha256:
            raise HostError(
                f"{remote.label}: {manifest.wheel} as it came here",
                found=f"sha256 {found[:12]}…",
                expected=f"{manifest.sha256[:12]}…, as built there",
                remedy="run the command again",
            )
        incoming.replace(target)
        apply_manifest(manifest, out)
    finally:
        incoming.unlink(missing_ok=True)
        incoming.with_name(incoming.name + ".partial").unlink(missing_ok=True)
