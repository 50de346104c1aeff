"""Do what a BuildPlan says."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from packaging.utils import parse_wheel_filename

from provision.build import progress
from provision.build.audit import Audit, apply_audit
from provision.build.cache import apply_copy, apply_facts, apply_lock, key_of
from provision.build.commands import site_packages
from provision.build.environment import Environment, read_environment
from provision.build.in_setup import apply_site
from provision.build.plan import BuildPlan
from provision.build.provide import (
    apply_cuda_home,
    apply_environment,
    apply_source,
    error_since,
)
from provision.build.state import read_wheels_of, wheel_facts
from provision.build.tree import (
    apply_finished,
    apply_room,
    apply_tidy,
    compiling,
    objects_key,
)
from provision.errors import BuildError, ConfigError
from provision.process import apply_command
from provision.wheel.manifest import WheelManifest, apply_manifest, sha256_of


def apply_build(plan: BuildPlan, say: Callable[[str], None]) -> WheelManifest:
    """Build, audit and publish the wheel, unless the very same one is there already.

    Args:
        plan: of plan_build.
        say: gets progress lines.

    Returns:
        The wheel's manifest; ``cached`` when nothing was compiled.

    Raises:
        BuildError: with the compiler's or the audit's own words, and the path of the full log; or
            with what the disk said.
        ConfigError: the wheel could not be put where it is to go.
    """
    _require_writable(plan.spec.out)
    try:
        return _apply_build(plan, say)
    except OSError as error:
        where = error.filename or plan.state.layout.root
        raise BuildError(
            f"build deepspeed {plan.version}",
            found=f"{error.strerror or error} ({where})",
            expected="room for the build, and the right to write there",
            remedy="free some space or choose another folder (XDG_CACHE_HOME, --wheels)",
        ) from None


def _require_writable(out: Path) -> None:
    """ConfigError now rather than after minutes of compiling."""
    there = next(one for one in (out, *out.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass  # permissions alone don't say: the disk may be read-only, or full
    except OSError as error:
        raise ConfigError(
            "--wheels",
            found=f"{there}: {error.strerror or error}",
            expected="a folder to put the wheel in",
            remedy="name another, or see to it that it can be written to",
        ) from None


def _apply_build(plan: BuildPlan, say: Callable[[str], None]) -> WheelManifest:
    with apply_lock(plan.state.layout, say):
        environment = read_environment(plan.environment_path)
        if environment is not None and (ready := _ready(plan, environment, say)):
            return ready
        with _log(plan.log) as log:
            environment = environment or apply_environment(plan, log, say)
            # An environment made anew may be the very one that a kept wheel was built in.
            return _ready(plan, environment, say) or _build(plan, environment, log, say)


def _ready(
    plan: BuildPlan, environment: Environment, say: Callable[[str], None]
) -> WheelManifest | None:
    """The wheel, if it is in the out folder or comes there from the cache; else None."""
    layout, out = plan.state.layout, plan.spec.out
    key = _key(plan, environment)
    published, kept = read_wheels_of(key, plan.spec, layout)
    if published is not None:
        say(f"nothing to do: {out / published.wheel} is that wheel already")
        return _cached(published)
    if kept is not None:
        apply_copy(kept, source=layout.wheels / key, target=out)
        say(f"nothing to compile: {out / kept.wheel} is from the build cache")
        return _cached(kept)
    return None


def _key(plan: BuildPlan, environment: Environment) -> str:
    return key_of(_facts(plan, environment))


def _facts(plan: BuildPlan, environment: Environment) -> dict[str, object]:
    lock_sha256 = plan.state.lock_sha256
    return wheel_facts(plan.spec, plan.source, plan.toolchain, environment, lock_sha256)


def _cached(wheel: WheelManifest) -> WheelManifest:
    return WheelManifest(**{**vars(wheel), "cached": True})


@contextlib.contextmanager
def _log(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log:
        yield log


def _build(
    plan: BuildPlan, environment: Environment, log: IO[str], say: Callable[[str], None]
) -> WheelManifest:
    """Compile and audit in ``work``; keep the finished wheel in the cache, and publish it."""
    layout, facts = plan.state.layout, _facts(plan, environment)
    objects = objects_key(facts, environment.path)
    if apply_room(layout, objects):
        say("objects of the build before are here: compiling what changed since")
    try:
        apply_source(plan, log, say)
        apply_cuda_home(plan, environment, log, say)
        wheel = _compiled(plan, log, say, lambda: apply_finished(layout, objects))
    except OSError:
        shutil.rmtree(layout.work, ignore_errors=True)  # whoever needs room gets it
        raise
    audit = apply_audit(
        wheel,
        spec=plan.spec,
        python=plan.python.executable,
        torch_packages=site_packages(environment.path, plan.python),
        objdump=plan.toolchain.objdump,
        places=(layout.root, Path(plan.python.header).parent),
        work=layout.work,
        log=log,
        say=say,
    )
    manifest = _manifest(plan, environment, wheel, audit)
    folder = layout.wheels / key_of(facts)
    _keep(wheel, manifest, facts, folder)
    apply_tidy(layout)
    apply_copy(manifest, source=folder, target=plan.spec.out)
    say(f"wrote {plan.spec.out / manifest.wheel}")
    return manifest


def _compiled(
    plan: BuildPlan, log: IO[str], say: Callable[[str], None], finished: Callable[[], None]
) -> Path:
    plan.wrapper_path.parent.mkdir()
    plan.wrapper_path.write_text(plan.wrapper, encoding="utf-8")
    plan.wrapper_path.chmod(0o755)
    apply_site(Path(plan.compile.environ["PYTHONPATH"]))
    ops = ", ".join(plan.spec.op_names)
    say(f"compiling {ops} ({plan.jobs} at a time); the full log is {plan.log}")
    state = progress.Progress()

    def heard(line: str) -> None:
        nonlocal state
        before, state = state, progress.advance(state, line)
        if state != before:
            say(str(state))

    log.write("\n== compile\n")
    log.flush()
    start = log.tell()
    status = apply_command(
        plan.compile,
        log=log,
        on_line=heard,
        on_idle=lambda seconds: say(f"{state or 'compiling'}: {seconds:.0f} s"),
        record=compiling(plan.state.layout),
    )
    if status >= 0:  # well or not: nothing was cut short by a signal
        finished()
    wheels = sorted(plan.dist.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise BuildError(
            f"compile deepspeed {plan.version}",
            found=error_since(plan.log, start) or f"exit status {status}, {len(wheels)} wheels",
            expected="a wheel",
            remedy=f"the full log is {plan.log}",
        )
    return wheels[0]


def _manifest(
    plan: BuildPlan, environment: Environment, wheel: Path, audit: Audit
) -> WheelManifest:
    spec = plan.spec
    _name, version, _build_tag, tags = parse_wheel_filename(wheel.name)
    (tag,) = tags  # the audit has seen that it is one
    return WheelManifest(
        wheel=wheel.name,
        sha256=sha256_of(wheel),
        size=wheel.stat().st_size,
        deepspeed=str(version),
        accelerator=spec.accelerator,
        ops_asked=spec.ops_asked,
        ops=spec.op_names,
        not_loaded=audit.not_loaded,
        torch=environment.torch,
        torch_dist=environment.torch_dist,
        torch_cuda=environment.torch_cuda,
        python_tag=tag.interpreter,
        platform=tag.platform,
        toolkit=plan.toolkit.version if plan.toolkit else None,
        arch_list=spec.archs,
        ptx=audit.inspection.ptx,
        archs_checked=audit.archs_checked,
        cpu=spec.cpu.name,
        isa_checked=audit.isa_checked,
        glibc=audit.inspection.glibc or "",
        glibcxx=audit.inspection.glibcxx or "",
        compiler=plan.toolchain.compiler_name,
        source=plan.source.origin,
        built_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        requires=environment.requires,
    )


def _keep(wheel: Path, manifest: WheelManifest, facts: Mapping[str, object], folder: Path) -> None:
    # Made beside its place and moved there as a whole: a key's folder is complete or absent.
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        wheel.replace(staging / wheel.name)
        apply_manifest(manifest, staging)
        apply_facts(facts, staging)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
