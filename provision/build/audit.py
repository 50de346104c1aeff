"""The proof that a wheel is what was asked for. Anything less fails the build, naming the op.

DeepSpeed drops an op it finds incompatible without an error, ``ds_report`` never loads one, and
at run time whatever is missing or does not fit is compiled anew on every host.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from packaging.utils import parse_wheel_filename

from provision.build import binary, isa
from provision.build.ops import OPS, Op
from provision.build.process import Command, apply_command
from provision.build.spec import BuildSpec
from provision.build.toolchain import Python
from provision.errors import BuildError

_PROOF = Path(__file__).with_name("proof.py")
_INSTALLED = "deepspeed/git_version_info_installed.py"
#: Largest difference to torch's AdamW after the proof's steps, in parameter units. Parameters are
#: of order 1; DeepSpeed's order of operations costs about 3e-6.
ADAM_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a wheel file holds, as far as it can be said without running it.

    Attributes:
        tags: the tags of its file name.
        modules: compiled modules: path without suffix → path in the wheel.
        installed_ops: DeepSpeed's own list of the ops that it calls installed.
        accelerator: the accelerator that DeepSpeed was built for.
    """

    tags: tuple[str, ...]
    modules: Mapping[str, str]
    installed_ops: tuple[str, ...]
    accelerator: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What the proof found, for the manifest."""

    ops: tuple[str, ...]
    isa_checked: bool
    glibc: str
    glibcxx: str


def apply_audit(
    wheel: Path,
    *,
    spec: BuildSpec,
    python: Python,
    torch_packages: Path,
    objdump: str,
    work: Path,
    log: IO[str],
    say: Callable[[str], None],
) -> Audit:
    """Prove a wheel in a fresh environment under ``work``.

    Args:
        wheel: the wheel file.
        spec: what was asked for.
        python: the interpreter it is for.
        torch_packages: a site-packages folder with torch and DeepSpeed's requirements, and
            without DeepSpeed.
        objdump: path of objdump, or "": instructions are then not looked at.
        work: a folder for the fresh environment.
        log: gets the proof's output.
        say: gets progress lines.

    Raises:
        BuildError: the wheel is not what was asked for.
    """
    say("auditing the wheel")
    contents = read_contents(wheel)
    compare_contents(contents, spec, wheel=wheel.name)
    fresh = work / "fresh"
    packages = _apply_fresh_environment(fresh, wheel, python, torch_packages, log)
    files = {op.name: packages / contents.modules[op.module_path] for op in spec.ops}
    isa_checked = bool(objdump)
    if isa_checked:
        for op in spec.ops:
            _audit_instructions(op, files[op.name], spec.cpu, objdump)
    else:
        say("no objdump here: that no instruction is above the CPU level was not checked")
    _apply_proof(fresh, spec, log, say)
    floors = [binary.read_floors(path) for path in files.values()]
    return Audit(
        ops=spec.op_names,
        isa_checked=isa_checked,
        glibc=binary.highest(floor.glibc for floor in floors),
        glibcxx=binary.highest(floor.glibcxx for floor in floors),
    )


def read_contents(wheel: Path) -> Contents:
    """Look into a wheel file; nothing of it is run or imported."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        text = archive.read(_INSTALLED).decode() if _INSTALLED in names else ""
    values = parse_assignments(text)
    ops = values.get("installed_ops")
    return Contents(
        tags=tuple(sorted(str(tag) for tag in parse_wheel_filename(wheel.name)[3])),
        modules={name.split(".", 1)[0]: name for name in names if name.endswith(".so")},
        installed_ops=tuple(sorted(name for name, on in ops.items() if on)) if ops else (),
        accelerator=str(values.get("accelerator_name", "")),
    )


def parse_assignments(text: str) -> dict[str, Any]:
    """``name = literal`` lines of a Python file → values; other lines are passed over."""
    values = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def compare_contents(contents: Contents, spec: BuildSpec, *, wheel: str) -> None:
    """BuildError unless ops asked for == ops DeepSpeed calls installed == modules in the wheel."""
    if len(contents.tags) != 1 or contents.tags[0].endswith("-none-any"):
        raise _refused(
            wheel, f"tags {', '.join(contents.tags)}", "one platform's tag: compiled ops"
        )
    if contents.accelerator != spec.accelerator:
        found = f"built for accelerator {contents.accelerator or 'unknown'}"
        raise _refused(wheel, found, spec.accelerator)
    ours = {op.installed_name: op.name for op in OPS.values()}
    installed = {ours.get(name, name) for name in contents.installed_ops}
    if installed != set(spec.op_names):
        raise _refused(wheel, _difference(installed, spec), f"ops {', '.join(spec.op_names)}")
    for op in spec.ops:
        if op.module_path not in contents.modules:
            raise _refused(wheel, f"op {op.name} without its module", f"{op.module_path}.*.so")
    known = {op.module_path for op in spec.ops}
    if extra := contents.modules.keys() - known:
        raise _refused(wheel, f"unknown modules {', '.join(sorted(extra))}", "the asked ops' only")


def _difference(installed: set[str], spec: BuildSpec) -> str:
    asked = set(spec.op_names)
    parts = [f"op {name} left out" for name in sorted(asked - installed)]
    parts += [f"op {name} that nobody asked for" for name in sorted(installed - asked)]
    return ", ".join(parts)


def _refused(wheel: str, found: str, expected: str) -> BuildError:
    return BuildError(
        f"audit of {wheel}",
        found=found,
        expected=expected,
        remedy="the wheel was not published; the build's log says what DeepSpeed's setup.py did",
    )


def _apply_fresh_environment(
    path: Path, wheel: Path, python: Python, torch_packages: Path, log: IO[str]
) -> Path:
    """A new environment that holds the wheel's files, and sees torch; → its site-packages."""
    shutil.rmtree(path, ignore_errors=True)
    argv = (python.executable, "-m", "venv", "--without-pip", str(path))
    status = apply_command(Command(argv=argv, environ={"PATH": "/usr/bin:/bin"}), log=log)
    packages = next(path.glob("lib/python*/site-packages"), None)
    if status != 0 or packages is None:
        raise _refused(wheel.name, f"python -m venv exit status {status}", "a fresh environment")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "torch.pth").write_text(f"{torch_packages}\n", encoding="utf-8")
    return packages


def _audit_instructions(op: Op, module: Path, level: isa.Level, objdump: str) -> None:
    with subprocess.Popen(
        (objdump, "-d", "-C", "--no-show-raw-insn", str(module)),
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        foreign = isa.foreign_instructions(process.stdout, level=level, guarded=op.guarded)
    if process.returncode != 0:
        raise _refused(module.name, f"objdump exit status {process.returncode}", "a disassembly")
    if foreign:
        found = f"op {op.name}: {foreign[0].instruction} in {foreign[0].function}"
        raise _refused(module.name, found, f"no instruction above {level.name}")


def _apply_proof(fresh: Path, spec: BuildSpec, log: IO[str], say: Callable[[str], None]) -> None:
    builders = {op.name: op.builders[spec.accelerator] for op in spec.ops}
    lines: list[str] = []
    log.write("\n== audit\n")
    status = apply_command(
        Command(
            argv=(str(fresh / "bin" / "python"), "-I", str(_PROOF), json.dumps(builders)),
            environ={
                "DS_ACCELERATOR": spec.accelerator,
                "HOME": str(fresh),
                "LC_ALL": "C.UTF-8",
                "PATH": "/usr/bin:/bin",
                "TORCH_EXTENSIONS_DIR": str(fresh / "torch_extensions"),
            },
            cwd=fresh,
        ),
        log=log,
        on_line=lines.append,
        on_idle=lambda seconds: say(f"auditing the wheel: {seconds:.0f} s"),
    )
    compare_proof(parse_proof(lines), spec, status=status)


def parse_proof(lines: list[str]) -> dict[str, Any]:
    """proof.py's answers, merged: op → "loading", "ok" or the error; "adam" → difference."""
    answers: dict[str, Any] = {}
    for line in lines:
        if line.startswith("zerofleet-proof "):
            answers.update(json.loads(line.removeprefix("zerofleet-proof ")))
    return answers


def compare_proof(answers: Mapping[str, Any], spec: BuildSpec, *, status: int) -> None:
    """BuildError unless every op was loaded and its Adam, if it has one, agrees with torch's."""
    for op in spec.op_names:
        answer = answers.get(op, "not reached")
        if answer == "loading":
            answer = f"the interpreter ended while it was loaded (exit status {status})"
        if answer != "ok":
            raise _refused(f"op {op}", str(answer), "the op loads in a fresh environment")
    if "cpu_adam" in spec.op_names:
        difference = answers.get("adam")
        if not isinstance(difference, float) or not difference <= ADAM_TOLERANCE:
            found = "no answer" if difference is None else f"a difference of {difference}"
            expected = f"steps within {ADAM_TOLERANCE} of torch.optim.AdamW"
            raise _refused("op cpu_adam", f"{found} (exit status {status})", expected)
    if status != 0:
        raise _refused("the audit", f"exit status {status}", "0")
