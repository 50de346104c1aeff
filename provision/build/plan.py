"""From a spec and facts to the exact commands of a build: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from provision.build import isa
from provision.build.commands import (
    compile_environ,
    environment_commands,
    fetch_command,
    pip_environ,
    python_of,
)
from provision.build.environment import FACTS
from provision.build.interpreter import Python
from provision.build.process import Command
from provision.build.source import Source
from provision.build.spec import BuildSpec
from provision.build.state import BuildState, environment_path, require_python
from provision.build.toolchain import HERE, Toolchain, jobs_of
from provision.errors import ConfigError
from provision.steps import Phase, Plan, Run, Step


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A build, decided. ``steps`` is what a person sees; the commands are what is run.

    Attributes:
        version: the wheel's full version.
        jobs: compilers at once.
        make_environment: commands that make the build environment, in order.
        facts: prints the environment's torch, once it is made.
        fetch: brings the release's source archive into ``work``; for a pinned release only.
        compile: makes the wheel in ``dist``.
        wrapper: the compiler wrapper's text, to be written at ``wrapper_path``.
    """

    spec: BuildSpec
    toolchain: Toolchain
    state: BuildState
    steps: Plan
    version: str
    jobs: int
    environment_path: Path
    make_environment: tuple[Command, ...]
    facts: Command
    fetch: Command
    compile: Command
    wrapper: str = field(repr=False)

    @property
    def source(self) -> Source:
        """Where the sources come from."""
        return self.state.source

    @property
    def python(self) -> Python:
        """The interpreter the wheel is for."""
        return require_python(self.toolchain)

    @property
    def tree(self) -> Path:
        """The unpacked source."""
        return self.state.layout.work / "source"

    @property
    def dist(self) -> Path:
        """Where the compilation puts its wheel."""
        return self.state.layout.work / "dist"

    @property
    def wrapper_path(self) -> Path:
        """The compiler wrapper; called g++ because torch and ccache go by the name."""
        return self.state.layout.work / "bin" / "g++"

    @property
    def log(self) -> Path:
        """The full output of everything the build runs."""
        return self.state.layout.logs / f"deepspeed-{self.version}-{self.python.tag}.log"


def build_string(spec: BuildSpec, source: Source) -> str:
    """The wheel's local version, which says what it was built for: ``+torch2.13.cpu.x86v3``.

    DeepSpeed's default wheel names are the same for every torch, accelerator and CPU.
    """
    torch = f"torch{spec.torch.major}.{spec.torch.minor}"
    own = () if source.pinned else (f"src{source.sha256[:8]}",)
    return "+" + ".".join((torch, spec.accelerator, spec.cpu.tag, *own))


def plan_build(spec: BuildSpec, toolchain: Toolchain, state: BuildState) -> BuildPlan:
    """Decide a build. ``steps`` is empty when the wheel is already there.

    Call it when compare_toolchain found nothing that fails.

    Raises:
        ConfigError: the cache's path can't be built in, or the source has a local version.
    """
    _require_buildable(state)
    python = require_python(toolchain)
    path = environment_path(spec, python, state.layout, state.lock_sha256)
    work = state.layout.work
    string = build_string(spec, state.source)
    jobs = jobs_of(toolchain, spec.jobs)
    pip = pip_environ(state.environ, spec.accelerator)
    version = state.source.version + string
    return BuildPlan(
        spec=spec,
        toolchain=toolchain,
        state=state,
        steps=_steps(spec, python, state, version, jobs),
        version=version,
        jobs=jobs,
        environment_path=path,
        make_environment=environment_commands(spec, python, path, state.lock, pip),
        facts=Command(argv=(python_of(path), "-I", "-c", FACTS), environ=pip),
        fetch=fetch_command(path, work, pip),
        compile=Command(
            argv=(
                *(python_of(path), "-m", "build", "--wheel", "--no-isolation"),
                *("--outdir", str(work / "dist"), str(work / "source")),
            ),
            environ=compile_environ(spec, state.environ, python, path, work, string, jobs),
            cwd=work / "source",
        ),
        wrapper=isa.wrapper_script(
            level=spec.cpu,
            compiler=toolchain.compiler,
            version=str(toolchain.compiler_version),
        ),
    )


def _require_buildable(state: BuildState) -> None:
    root = str(state.layout.root)
    if any(not (char.isalnum() or char in "/._-+@") for char in root):
        raise ConfigError(
            "build cache",
            found=root,
            expected="a path of letters, digits and / . _ - + @ (ninja and make stumble on others)",
            remedy="set XDG_CACHE_HOME to another folder",
        )
    if "+" in state.source.version:
        raise ConfigError(
            f"version.txt of {state.source.name}",
            found=state.source.version,
            expected="a version without a local part",
            remedy="take the part from '+' out: ours goes there",
        )


def _steps(spec: BuildSpec, python: Python, state: BuildState, version: str, jobs: int) -> Plan:
    title = f"build deepspeed {version}"
    if state.published is not None:
        return Plan(title=title)
    publish = _phase("publish", f"write the wheel and its manifest to {spec.out}/", "for deploy")
    if state.kept is not None:
        return Plan(title=title, phases=(publish,))
    return Plan(
        title=title,
        phases=(
            *_environment_phases(spec, python, state),
            *_source_phases(state),
            _phase(
                "compile",
                f"compile {', '.join(spec.op_names)} for {spec.cpu.name}, {jobs} at a time",
                "so that no host compiles anything",
            ),
            _phase(
                "audit",
                "load every op in a fresh environment with DeepSpeed's own compiling turned off",
                "DeepSpeed drops ops silently, and its ds_report never loads one",
            ),
            publish,
        ),
    )


def _environment_phases(spec: BuildSpec, python: Python, state: BuildState) -> tuple[Phase, ...]:
    if state.environment is not None:
        return ()
    return (
        _phase(
            "environment",
            f"make a build environment: Python {python.version}, {state.lock.name}, "
            f"torch {spec.torch}",
            f"none for these in {state.layout.environments}",
        ),
    )


def _source_phases(state: BuildState) -> tuple[Phase, ...]:
    source = state.source
    if source.pinned and state.archive is None:
        action = f"fetch {source.name} through pip"
        return (_phase("source", action, f"sha256 {source.sha256[:12]}…"),)
    where = state.archive or source.path
    return (_phase("source", f"unpack {where}", f"sha256 {source.sha256[:12]}…"),)


def _phase(name: str, action: str, why: str) -> Phase:
    return Phase(name=name, steps=(Step(host=HERE, do=Run(argv=(), title=action), why=why),))
