"""Provide what a compilation needs: the build environment and the unpacked source."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from provision.build import progress
from provision.build.commands import site_packages, torch_requirement
from provision.build.environment import (
    MARKER,
    Environment,
    constraints_of,
    parse_facts,
    render_marker,
    required_by,
)
from provision.build.failure import first_error
from provision.build.plan import BuildPlan
from provision.build.toolkit import apply_view, missing, nvcc_script, read_view
from provision.build.tree import apply_tree
from provision.errors import BuildError
from provision.process import Command, apply_command
from provision.wheel.manifest import sha256_of

#: Seconds between two progress lines of one download.
_PERCENT_EVERY_S = 5.0


def apply_environment(plan: BuildPlan, log: IO[str], say: Callable[[str], None]) -> Environment:
    """Make the build environment anew and return it; its marker is written last.

    Raises:
        BuildError: pip could not provide it.
    """
    path = plan.environment_path
    shutil.rmtree(path, ignore_errors=True)  # an interrupted one
    path.parent.mkdir(parents=True, exist_ok=True)
    create, install_lock, install_torch = plan.make_environment
    say(f"making the build environment (Python {plan.python.version}) in {path}")
    _apply(create, "python -m venv", plan, log, say)
    _apply(install_lock, f"pip install -r {plan.state.lock.name}", plan, log, say)
    locked = _read_report(path / "locked.json")
    (path / "constraints.txt").write_text(constraints_of(locked), encoding="utf-8")
    say(f"installing torch {plan.spec.torch} as pip is configured here")
    _apply(install_torch, f"pip install {torch_requirement(plan.spec)}", plan, log, say)
    environment = _describe(plan, path, locked, log, say)
    _require_cuda(plan, environment)
    (path / MARKER).write_text(render_marker(environment), encoding="utf-8")
    _require_expected_cuda(plan, environment)
    return environment


def _require_cuda(plan: BuildPlan, environment: Environment) -> None:
    # Before the environment counts as made: pip, configured otherwise, may bring another torch.
    if plan.toolchain.cuda is not None and environment.torch_cuda is None:
        raise BuildError(
            f"pip install '{torch_requirement(plan.spec)}'",
            found=f"torch {environment.torch}, which has no CUDA",
            expected="a torch with CUDA, for --arch " + ";".join(plan.spec.archs),
            remedy="let pip see an index with CUDA builds, or name one: "
            f"--torch {plan.spec.torch.public}+cu130",
        )


def _require_expected_cuda(plan: BuildPlan, environment: Environment) -> None:
    # Toolkit, GPUs and compiler were held against another CUDA than this.
    cuda = plan.toolchain.cuda
    if cuda is not None and environment.torch_cuda != cuda.torch_cuda:
        raise BuildError(
            f"pip install '{torch_requirement(plan.spec)}'",
            found=f"torch {environment.torch} with CUDA {environment.torch_cuda}",
            expected=f"CUDA {cuda.torch_cuda}, which this build was planned for",
            remedy="run the command again: it now knows which CUDA this torch has",
        )


def apply_cuda_home(
    plan: BuildPlan, environment: Environment, log: IO[str], say: Callable[[str], None]
) -> None:
    """Put together the CUDA_HOME that GPU code is compiled with; nothing for a plan without any.

    Raises:
        BuildError: pip could not bring the toolkit, or something is missing in it.
    """
    toolkit = plan.toolkit
    if toolkit is None:
        return
    if plan.fetch_toolkit is not None and not toolkit.home.is_dir():
        staging = toolkit.folder.with_name(f"{toolkit.folder.name}.new")
        shutil.rmtree(staging, ignore_errors=True)  # an interrupted one
        say(f"fetching {toolkit}")
        assert toolkit.lock is not None  # fetch_toolkit is the command for it
        try:
            _apply(plan.fetch_toolkit, f"pip install -r {toolkit.lock.name}", plan, log, say)
            staging.rename(toolkit.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    links = read_view(toolkit.home, site_packages(environment.path, plan.python))
    if absent := missing(links, plan.spec.toolkit_parts):
        raise BuildError(
            f"{toolkit} and torch's own packages",
            found=f"no {', no '.join(absent)}",
            expected="a whole toolkit between them",
            remedy="name a whole one with CUDA_HOME, or build with --toolkit pypi",
        )
    apply_view(links, nvcc_script(toolkit), plan.cuda_home)


def _describe(
    plan: BuildPlan,
    path: Path,
    locked: dict[str, Any],
    log: IO[str],
    say: Callable[[str], None],
) -> Environment:
    lines: list[str] = []
    _apply(plan.facts, "import torch", plan, log, say, lines.append)
    facts = parse_facts("\n".join(lines))
    if facts is None or "deepspeed" in facts["names"]:
        found = "no answer" if facts is None else "deepspeed installed"
        raise BuildError(
            f"build environment {path}",
            found=found,
            expected="torch and no deepspeed (the audit must not load another one)",
            remedy=f"see {plan.log}",
        )
    return Environment(
        path=path,
        torch=facts["torch"],
        torch_cuda=facts["torch_cuda"],
        torch_dist=facts["torch_dist"],
        requires=required_by("torch", (locked, _read_report(path / "torch.json"))),
    )


def apply_source(plan: BuildPlan, log: IO[str], say: Callable[[str], None]) -> None:
    """Put the source tree where it is compiled; fetches the release first if need be.

    Raises:
        BuildError: pip could not bring it, or brought another file.
    """
    source = plan.source
    origin = source.path or _fetched(plan, log, say)
    say(f"unpacking {source.name}")
    apply_tree(origin, plan.state.layout)


def _fetched(plan: BuildPlan, log: IO[str], say: Callable[[str], None]) -> Path:
    source, layout = plan.source, plan.state.layout
    kept = layout.sources / source.sha256 / source.name
    if kept.is_file() and sha256_of(kept) == source.sha256:
        return kept
    say(f"fetching {source.name}")
    wanted = layout.work / "source.txt"
    wanted.write_text(f"deepspeed=={source.version} --hash=sha256:{source.sha256}\n", "utf-8")
    _apply(plan.fetch, f"pip download deepspeed=={source.version}", plan, log, say)
    # pip has checked the hash; the name is whatever the index calls the file.
    files = [p for p in (layout.work / "download").iterdir() if sha256_of(p) == source.sha256]
    if not files:
        raise BuildError(
            f"source of deepspeed {source.version}",
            found="another file than asked for",
            expected=f"sha256 {source.sha256}",
            remedy=f"see {plan.log}",
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    files[0].replace(kept)
    return kept


def _apply(
    command: Command,
    what: str,
    plan: BuildPlan,
    log: IO[str],
    say: Callable[[str], None],
    on_line: Callable[[str], None] = lambda _line: None,
) -> None:
    news = _PipNews(say)

    def heard(line: str) -> None:
        news(line)
        on_line(line)

    log.write(f"\n== {what}\n")
    log.flush()
    start = log.tell()
    status = apply_command(
        command, log=log, on_line=heard, on_idle=lambda seconds: say(f"{what}: {seconds:.0f} s")
    )
    if status != 0:
        raise BuildError(
            what,
            found=error_since(plan.log, start) or f"exit status {status}",
            expected="success",
            remedy=f"the full log is {plan.log}",
        )


class _PipNews:
    """Says what is news in pip's output, and a download's percentage now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._download = ""
        self._said_at = 0.0

    def __call__(self, line: str) -> None:
        news = progress.pip_news(line)
        if news:
            self._download = news
            self._said_at = time.monotonic()
            self._say(news)
        percent = progress.pip_percent(line)
        now = time.monotonic()
        if percent is not None and now - self._said_at >= _PERCENT_EVERY_S:
            self._said_at = now
            self._say(f"{self._download}: {percent} %")


def error_since(log: Path, start: int) -> str:
    """The first real error in a log file after a position (of ``tell()``)."""
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return first_error(file)


def _read_report(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
