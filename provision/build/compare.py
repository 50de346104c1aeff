"""Whether this machine can build what is wanted: all that is wrong, at once, before any of it."""

from __future__ import annotations

from dataclasses import replace

from packaging.version import Version

from provision.build.compare_cuda import compare_cuda, finding
from provision.build.spec import BuildSpec
from provision.build.toolchain import COMPILER_BYTES, GIB, Toolchain, jobs_of
from provision.findings import Finding, Level, Report
from provision.wheel import isa
from provision.wheel.ops import ALL, OPS, Op, ops_of

#: What a build needs to have free: a CPU torch and its environment, sources, objects.
DISK_BYTES = 3 * GIB
#: And what pip's default index brings for the same torch release: the CUDA build, 4.7 GB.
DISK_BYTES_CUDA_TORCH = 8 * GIB
#: The first gcc that knows -march=x86-64-v3: https://gcc.gnu.org/gcc-11/changes.html
MIN_GCC = Version("11")
_LIBAIO = "install libaio-dev (Debian, Ubuntu) or libaio-devel (Fedora, RHEL)"
MIN_PYTHON = Version("3.11")  # of locks/build.lock


def compare_toolchain(spec: BuildSpec, toolchain: Toolchain) -> Report:
    """What keeps this machine from building what the spec asks for: all of it, at once."""
    return Report(
        findings=(
            *_compare_machine(spec, toolchain),
            *_compare_python(toolchain),
            *_compare_compiler(toolchain),
            *compare_cuda(spec, toolchain),
            *_compare_room(spec, toolchain),
            *_compare_headers(spec, toolchain),
            *_compare_left_out(spec),
        )
    )


def without_missing(spec: BuildSpec, toolchain: Toolchain) -> BuildSpec:
    """The spec; for ``--ops all`` without the ops that this machine lacks something for."""
    if spec.ops_asked != (ALL,):
        return spec
    parts = toolchain.cuda.missing if toolchain.cuda else ()
    absent = {
        op.name
        for op in spec.ops
        if (op.header and op.header not in toolchain.headers) or op.toolkit_part in parts
    }
    return replace(spec, ops=tuple(op for op in spec.ops if op.name not in absent))


def _compare_left_out(spec: BuildSpec) -> tuple[Finding, ...]:
    if spec.ops_asked != (ALL,):
        return ()
    return tuple(
        finding(
            f"op {name}",
            Level.WARN,
            "left out",
            "--ops all",
            OPS[name].blocked or _why_left_out(OPS[name]),
        )
        for name in ops_of(spec.accelerator)
        if name not in spec.op_names
    )


def _compare_machine(spec: BuildSpec, toolchain: Toolchain) -> tuple[Finding, ...]:
    if toolchain.machine != "x86_64":
        level = Level.ERROR if toolchain.machine else Level.UNKNOWN
        found = toolchain.machine or "unknown"
        return (finding("machine", level, found, "x86_64", "build on an x86-64 Linux machine"),)
    missing = isa.missing_flags(spec.cpu, toolchain.cpu_flags)
    if missing:
        return (
            finding(
                "CPU",
                Level.ERROR if toolchain.cpu_flags else Level.UNKNOWN,
                f"no {', '.join(missing)}",
                f"{spec.cpu.name}, or the wheel could not be proved to run",
                "build on a machine of that level, or lower --cpu",
            ),
        )
    return (finding("CPU", Level.OK, f"{spec.cpu.name} or better", spec.cpu.name),)


def _compare_python(toolchain: Toolchain) -> tuple[Finding, ...]:
    python = toolchain.python
    if python is None:
        found = f"{toolchain.asked_python} does not run"
        return (
            finding("Python", Level.ERROR, found, f">= {MIN_PYTHON}", "name one with --python"),
        )
    findings = [finding("Python", Level.OK, python.version, f">= {MIN_PYTHON}")]
    if python.version < MIN_PYTHON or python.implementation != "cpython":
        found = f"{python.implementation} {python.version}"
        expected = f"CPython >= {MIN_PYTHON}"
        findings = [finding("Python", Level.ERROR, found, expected, "name one with --python")]
    package = f"python{python.version.major}.{python.version.minor}"
    if not python.has_venv:
        remedy = f"install {package}-venv (Debian, Ubuntu)"
        findings.append(finding("venv", Level.ERROR, "none", "venv and ensurepip", remedy))
    if not python.has_header:
        remedy = f"install {package}-dev (Debian, Ubuntu) or {package}-devel (Fedora, RHEL)"
        findings.append(finding("Python.h", Level.ERROR, "none", python.header, remedy))
    return tuple(findings)


def _compare_compiler(toolchain: Toolchain) -> tuple[Finding, ...]:
    expected = f"g++ >= {MIN_GCC}"
    remedy = "install g++ (Debian, Ubuntu) or gcc-c++ (Fedora, RHEL), or name one with CXX"
    version = toolchain.compiler_version
    if not toolchain.compiler:
        found = f"no {toolchain.asked_compiler}"
    elif version is None:
        found = f"{toolchain.compiler}, which is no gcc"
    elif version < MIN_GCC:
        found = f"{toolchain.compiler} {version}"
    else:
        return (finding("compiler", Level.OK, toolchain.compiler_name, expected),)
    return (finding("compiler", Level.ERROR, found, expected, remedy),)


def _compare_room(spec: BuildSpec, toolchain: Toolchain) -> tuple[Finding, ...]:
    jobs = jobs_of(toolchain, spec.jobs)
    findings = []
    if toolchain.cores is None:
        findings.append(finding("cores", Level.UNKNOWN, "unknown", "a number", "see nproc"))
    elif jobs > toolchain.cores:
        remedy = "lower --jobs, or leave it out"
        expected = f"at most {toolchain.cores}, the cores here"
        findings.append(finding("--jobs", Level.ERROR, jobs, expected, remedy))
    needed = jobs * COMPILER_BYTES
    if toolchain.memory is None:
        remedy = "see /proc/meminfo"
        findings.append(finding("memory", Level.UNKNOWN, "unknown", _gib(needed), remedy))
    elif toolchain.memory < needed:
        remedy = "lower --jobs, or free some: the kernel may end a compiler"
        findings.append(finding("memory", Level.WARN, _gib(toolchain.memory), _gib(needed), remedy))
    else:
        found = f"{_gib(toolchain.memory)}, for {jobs} compilers at once"
        findings.append(finding("memory", Level.OK, found, f">= {_gib(needed)}"))
    findings.append(_compare_disk(spec, toolchain))
    return tuple(findings)


def _compare_disk(spec: BuildSpec, toolchain: Toolchain) -> Finding:
    disk, cuda = toolchain.disk, toolchain.cuda
    remedy = "free some, or set XDG_CACHE_HOME to a folder on a larger disk"
    # Once its torch is there, a CUDA build needs no more than any other.
    needed = DISK_BYTES_CUDA_TORCH if cuda and not cuda.torch_read else DISK_BYTES
    expected = f">= {_gib(needed)} free for the build cache"
    if disk is None:
        return finding("disk", Level.UNKNOWN, "unknown", expected, remedy)
    if disk < needed:
        return finding("disk", Level.ERROR, _gib(disk), expected, remedy)
    if disk < DISK_BYTES_CUDA_TORCH and spec.accelerator == "cpu":
        expected = f"{_gib(DISK_BYTES_CUDA_TORCH)}, in case pip brings a CUDA torch"
        return finding("disk", Level.WARN, _gib(disk), expected, remedy)
    return finding("disk", Level.OK, _gib(disk), expected)


def _why_left_out(op: Op) -> str:
    if not op.tried:
        return "never built with this version so far: name it in --ops to try, its proof decides"
    return f"it needs {' and '.join(filter(None, (op.header, op.toolkit_part)))}, not all here"


def _compare_headers(spec: BuildSpec, toolchain: Toolchain) -> tuple[Finding, ...]:
    return tuple(
        finding(
            f"{op.header} (op {op.name})",
            Level.ERROR,
            "none",
            "on the compiler's path",
            f"{_LIBAIO}, or leave the op out",
        )
        for op in spec.ops
        if op.header and op.header not in toolchain.headers
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
