"""Build extra wheels in DeepSpeed's build environment.

Without pip's build isolation, so that a setup.py that imports torch finds the very torch of the
environment; but what the project itself asks for to be built (hatchling, an older setuptools) goes
into an environment of its own on top, and DeepSpeed's stays as it was locked.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path
from typing import IO

from packaging.utils import canonicalize_name

from provision.build.cache import apply_lock
from provision.build.commands import pip_environ, python_of, site_packages
from provision.build.plan import BuildPlan
from provision.build.provide import error_since
from provision.build.source import apply_unpack
from provision.build.state import EPOCH
from provision.build.with_source import ExtraPlan
from provision.errors import BuildError, ConfigError
from provision.process import Command, apply_command
from provision.wheel.extra import ExtraWheel, apply_publish
from provision.wheel.manifest import SourceOf, sha256_of

#: What has its own flags.
_NOT_EXTRA = {"deepspeed": "--source", "torch": "--torch"}
#: A project without a pyproject.toml, or without a table of what builds it, is setuptools'.
#: https://packaging.python.org/en/latest/specifications/pyproject-toml/#pyproject-build-system-table
_DEFAULT_REQUIRES = ("setuptools",)


def apply_extras(
    plan: BuildPlan, extras: tuple[ExtraPlan, ...], say: Callable[[str], None]
) -> tuple[ExtraWheel, ...]:
    """Build the extra wheels into the out folder; call it when DeepSpeed's build is done.

    Raises:
        BuildError: a project does not build, or its wheel is not pure Python.
        ConfigError: a project is one that has flags of its own.
    """
    built = []
    for extra in extras:
        if extra.ready is not None:
            say(
                f"nothing to do: {extra.ready.wheel} is built from {extra.source.path.name} already"
            )
            built.append(replace(extra.ready, cached=True))
            continue
        with apply_lock(plan.state.layout, say), _workshop(plan) as (work, log):
            built.append(_build(plan, extra, work, log, say))
    return tuple(built)


@contextlib.contextmanager
def _workshop(plan: BuildPlan) -> Iterator[tuple[Path, IO[str]]]:
    """An empty folder, and a log; the folder is gone afterwards."""
    work = plan.state.layout.root / "extra"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    path = plan.state.layout.logs / "extra.log"
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("w+", encoding="utf-8") as log:
            yield work, log
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(
    plan: BuildPlan, extra: ExtraPlan, work: Path, log: IO[str], say: Callable[[str], None]
) -> ExtraWheel:
    source = extra.source
    name = source.path.name
    tree = work / "source" / name.removesuffix(".tar.gz")
    tree.parent.mkdir()
    if source.folder is None:
        apply_unpack(source.path, tree)
    else:
        with tarfile.open(fileobj=io.BytesIO(source.folder.content)) as archive:
            archive.extractall(tree.parent)  # noqa: S202 - packed by read_folder
    environ = {
        **pip_environ(plan.state.environ, plan.spec.accelerator),
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(EPOCH),
    }
    say(f"building a wheel of {name}")
    for what, argv in _commands(plan, work, tree):
        _run(what, Command(argv=argv, environ=environ, cwd=tree), log, say)
        if what == "python -m venv":
            _see_build_environment(plan, work)
    made = _describe(sorted((work / "dist").glob("*.whl")), extra)
    for old in apply_publish(made, work / "dist" / made.wheel, plan.spec.out):
        say(f"removed {plan.spec.out / old}: {made.wheel} takes its place")
    say(f"wrote {plan.spec.out / made.wheel}")
    return made


def _commands(plan: BuildPlan, work: Path, tree: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    python, constraints = python_of(work / "env"), work / "constraints.txt"
    # A project that asks for torch to be built must not bring another one.
    constraints.write_text(f"torch=={plan.spec.torch}\n", encoding="utf-8")
    requires = _build_requires(tree)
    install = (python, "-m", "pip", "install", "--no-input", "--progress-bar", "off")
    build = (python, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "dist"))
    venv = (plan.python.executable, "-m", "venv", "--without-pip", str(work / "env"))
    return (
        ("python -m venv", venv),
        (f"pip install {' '.join(requires)}", (*install, "-c", str(constraints), *requires)),
        (f"python -m build {tree.name}", (*build, str(tree))),
    )


def _build_requires(tree: Path) -> tuple[str, ...]:
    path = tree / "pyproject.toml"
    if not path.is_file():
        return _DEFAULT_REQUIRES
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(
            f"{tree.name}/pyproject.toml",
            found=str(error),
            expected="TOML",
            remedy="correct that file",
        ) from None
    return tuple(table.get("build-system", {}).get("requires", _DEFAULT_REQUIRES))


def _see_build_environment(plan: BuildPlan, work: Path) -> None:
    """Let the project's own environment see pip, build, setuptools and torch of DeepSpeed's."""
    packages = site_packages(plan.environment_path, plan.python)
    path = site_packages(work / "env", plan.python) / "build.pth"
    path.write_text(f"{packages}\n", encoding="utf-8")


def _run(what: str, command: Command, log: IO[str], say: Callable[[str], None]) -> None:
    log.write(f"\n== {what}\n")
    log.flush()
    start = log.tell()
    last = [""]

    def heard(line: str) -> None:
        last[0] = line.strip() or last[0]

    status = apply_command(
        command, log=log, on_line=heard, on_idle=lambda s: say(f"{what}: {s:.0f} s")
    )
    if status != 0:
        path = Path(log.name)
        raise BuildError(
            what,
            found=error_since(path, start) or last[0] or f"exit status {status}",
            expected="success",
            remedy=f"the full log is {path}",
        )


def _describe(wheels: list[Path], extra: ExtraPlan) -> ExtraWheel:
    """The one wheel that was built, looked into; nothing of it is run."""
    name = extra.source.path.name
    if len(wheels) != 1:
        raise BuildError(
            f"build of {name}", found=f"{len(wheels)} wheels", expected="one", remedy="see its log"
        )
    (wheel,) = wheels
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        metadata = next(one for one in files if one.endswith(".dist-info/METADATA"))
        headers = _headers(archive.read(metadata).decode("utf-8"))
    compiled = [one for one in files if one.endswith((".so", ".pyd"))]
    if compiled or not wheel.name.endswith("-none-any.whl"):
        raise BuildError(
            wheel.name,
            found=f"compiled code ({compiled[0] if compiled else 'a platform tag'})",
            expected="pure Python",
            remedy="--with-source can't prove that compiled code runs on the hosts; leave it out",
        )
    distribution = canonicalize_name(headers["name"][0])
    if distribution in _NOT_EXTRA:
        flag = _NOT_EXTRA[distribution]
        raise ConfigError(
            f"--with-source {name}",
            found=distribution,
            expected="another project",
            remedy=f"use the flag that it has: {flag}",
        )
    return ExtraWheel(
        wheel=wheel.name,
        sha256=sha256_of(wheel),
        size=wheel.stat().st_size,
        name=distribution,
        version=headers["version"][0],
        requires=tuple(headers.get("requires-dist", ())),
        source=SourceOf(name=name, sha256=extra.source.sha256),
        key=extra.key,
    )


def _headers(text: str) -> Mapping[str, list[str]]:
    """Core metadata: https://packaging.python.org/en/latest/specifications/core-metadata/"""
    found: dict[str, list[str]] = {}
    for key, value in HeaderParser().parsestr(text).items():
        found.setdefault(key.lower(), []).append(value)
    return found
