"""From a spec and facts to the exact commands of a build: pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from provision.build.arch import arch_tag
from provision.build.commands import (
    compile_environ,
    cuda_environ,
    environment_commands,
    fetch_command,
    pip_environ,
    python_of,
    toolkit_command,
)
from provision.build.environment import FACTS, environment_path
from provision.build.interpreter import Python
from provision.build.source import Source
from provision.build.spec import BuildSpec
from provision.build.state import BuildState, libraries_of, require_python, toolkit_of
from provision.build.toolchain import HERE, Toolchain, jobs_of
from provision.build.toolkit import Toolkit
from provision.errors import ConfigError
from provision.process import Command
from provision.steps import Phase, Plan, Run, Step
from provision.wheel import isa
from provision.wheel.ops import DEFAULT_OPS


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A build, decided. ``steps`` is what a person sees; the commands are what is run.

    Attributes:
        version: the wheel's full version.
        jobs: compilers at once.
        make_environment: commands that make the build environment, in order.
        facts: prints the environment's torch, once it is made.
        fetch: brings the release's source archive into ``work``; for a pinned release only.
        fetch_toolkit: brings the toolkit's packages into a folder of the cache; None where the
            toolkit lies on this machine, or none is needed.
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
    fetch_toolkit: Command | None
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
    def toolkit(self) -> Toolkit | None:
        """What GPU code is compiled with; None for a wheel without any."""
        return toolkit_of(self.toolchain)

    @property
    def cuda_home(self) -> Path:
        """The CUDA_HOME of the compilation: the toolkit, and what it lacks from torch's own."""
        return self.state.layout.work / "cuda"

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


#: So many ops are told apart by their names; more by a hash of them.
_NAMED_OPS = 3


def build_string(spec: BuildSpec, source: Source, torch_cuda: str = "") -> str:
    """The wheel's local version, which says what it was built for.

    ``+torch2.13.cpu.x86v3``, ``+torch2.13.cu130.sm80.sm90ptx.x86v3``; then the ops where they are
    not the default ones (``.cpuadam``, ``.ops7x1f9c20ab``), and a source that is no release.
    DeepSpeed's default wheel names are the same for every torch, accelerator, CPU and op.
    """
    torch = f"torch{spec.torch.major}.{spec.torch.minor}"
    device = f"cu{torch_cuda.replace('.', '')}" if spec.accelerator == "cuda" else spec.accelerator
    archs = (arch_tag(arch) for arch in spec.archs)
    own = () if source.pinned else (f"src{source.sha256[:8]}",)
    return "+" + ".".join((torch, device, *archs, spec.cpu.tag, *_ops_tags(spec), *own))


def _ops_tags(spec: BuildSpec) -> tuple[str, ...]:
    if set(spec.op_names) == set(DEFAULT_OPS[spec.accelerator]):
        return ()
    if len(spec.op_names) <= _NAMED_OPS:
        return tuple(name.replace("_", "") for name in spec.op_names)
    names = hashlib.sha256(",".join(spec.op_names).encode()).hexdigest()
    # Never a number alone: versions drop the zeros that one starts with.
    return (f"ops{len(spec.op_names)}x{names[:8]}",)


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
    cuda = toolchain.cuda
    toolkit = toolkit_of(toolchain)
    string = build_string(spec, state.source, cuda.torch_cuda if cuda else "")
    jobs = jobs_of(toolchain, spec.jobs)
    pip = pip_environ(state.environ, spec.accelerator)
    compiling = compile_environ(spec, state.environ, python, path, work, string, jobs)
    version = state.source.version + string
    return BuildPlan(
        spec=spec,
        toolchain=toolchain,
        state=state,
        steps=_steps(spec, toolchain, state, version, jobs),
        version=version,
        jobs=jobs,
        environment_path=path,
        make_environment=environment_commands(spec, python, path, state.lock, pip),
        facts=Command(argv=(python_of(path), "-I", "-c", FACTS), environ=pip),
        fetch=fetch_command(path, work, pip),
        fetch_toolkit=toolkit_command(path, toolkit, pip) if toolkit and toolkit.lock else None,
        compile=Command(
            argv=(
                *(python_of(path), "-m", "build", "--wheel", "--no-isolation"),
                *("--outdir", str(work / "dist"), str(work / "source")),
            ),
            environ={**compiling, **(cuda_environ(spec, compiling, work) if cuda else {})},
            cwd=work / "source",
        ),
        wrapper=isa.wrapper_script(
            level=spec.cpu,
            compiler=toolchain.compiler,
            version=str(toolchain.compiler_version),
            libraries=libraries_of(spec),
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


def _steps(
    spec: BuildSpec, toolchain: Toolchain, state: BuildState, version: str, jobs: int
) -> Plan:
    title = f"build deepspeed {version}"
    if state.published is not None:
        return Plan(title=title)
    publish = _phase("publish", f"write the wheel and its manifest to {spec.out}/", "for deploy")
    if state.kept is not None:
        return Plan(title=title, phases=(publish,))
    target = f"{' '.join(spec.archs)} and {spec.cpu.name}" if spec.archs else spec.cpu.name
    return Plan(
        title=title,
        phases=(
            *_environment_phases(spec, require_python(toolchain), state),
            *_toolkit_phases(toolchain, state),
            *_source_phases(state),
            _phase(
                "compile",
                f"compile {', '.join(spec.op_names)} for {target}, {jobs} at a time",
                state.miss or "so that no host compiles anything",
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


def _toolkit_phases(toolchain: Toolchain, state: BuildState) -> tuple[Phase, ...]:
    if toolchain.cuda is None or toolchain.cuda.toolkit is None:
        return ()
    toolkit = toolchain.cuda.toolkit
    verb = "fetch" if toolkit.lock and not state.toolkit_there else "take"
    why = f"torch {'has' if toolchain.cuda.torch_read else 'comes with'} CUDA {toolkit.cuda}"
    if toolkit.cuda != toolchain.cuda.torch_cuda:
        why = f"it compiles for torch's CUDA {toolchain.cuda.torch_cuda}"
    return (_phase("toolkit", f"{verb} {toolkit}", why),)


def _source_phases(state: BuildState) -> tuple[Phase, ...]:
    source = state.source
    if source.pinned and state.archive is None:
        action = f"fetch {source.name} through pip"
        return (_phase("source", action, f"sha256 {source.sha256[:12]}…"),)
    where = state.archive or source.path
    return (_phase("source", f"unpack {where}", f"sha256 {source.sha256[:12]}…"),)


def _phase(name: str, action: str, why: str) -> Phase:
    return Phase(name=name, steps=(Step(host=HERE, do=Run(argv=(), title=action), why=why),))
