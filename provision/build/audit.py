"""The proof that a wheel is what was asked for. Anything less fails the build, naming the op.

DeepSpeed drops an op it finds incompatible without an error, ``ds_report`` never loads one, and
at run time whatever is missing or does not fit is compiled anew on every host.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from provision.build.spec import BuildSpec
from provision.errors import BuildError
from provision.process import Command, apply_command
from provision.wheel import cubin
from provision.wheel.contents import Contents, read_places
from provision.wheel.inspect import Inspection, Module, read_inspection

_PROOF = Path(__file__).with_name("proof.py")
#: Largest difference to torch's AdamW after the proof's steps, in parameter units. Parameters are
#: of order 1; DeepSpeed's order of operations costs about 3e-6.
ADAM_TOLERANCE = 1e-5
#: How proof.py's answer starts for an op that needs a library that only a GPU driver brings.
NO_DRIVER = "no driver: "


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What the proof found, for the manifest.

    Attributes:
        not_loaded: op → why it could not be loaded here; all others were.
    """

    inspection: Inspection
    not_loaded: Mapping[str, str]
    isa_checked: bool
    archs_checked: bool


def apply_audit(
    wheel: Path,
    *,
    spec: BuildSpec,
    python: str,
    torch_packages: Path,
    objdump: str,
    places: tuple[Path, ...],
    work: Path,
    log: IO[str],
    say: Callable[[str], None],
) -> Audit:
    """Prove a wheel in a fresh environment under ``work``.

    Args:
        wheel: the wheel file.
        spec: what was asked for.
        python: path of the interpreter it is for.
        torch_packages: a site-packages folder with torch and DeepSpeed's requirements, and
            without DeepSpeed.
        objdump: path of objdump, or "": instructions are then not looked at.
        places: folders of this machine whose path must not be in the wheel.
        work: a folder for the fresh environment.
        log: gets the proof's output.
        say: gets progress lines.

    Raises:
        BuildError: the wheel is not what was asked for.
        ConfigError: it holds something that can't be read.
    """
    say("proving the wheel: what is in it")
    found = read_inspection(wheel, objdump)
    compare_contents(found.contents, spec, wheel=wheel.name)
    for module in found.modules:
        compare_module(module, spec)
    compare_places(read_places(wheel, tuple(str(place) for place in places)), wheel=wheel.name)
    if not objdump:
        say("no objdump here: that no instruction is above the CPU level was not checked")
    say("proving the wheel: every op loads in a fresh environment, compiling turned off")
    fresh = work / "fresh"
    _apply_fresh_environment(fresh, wheel, python, torch_packages, log)
    not_loaded = _apply_proof(fresh, spec, log, say)
    audit = Audit(
        inspection=found,
        not_loaded=not_loaded,
        isa_checked=bool(objdump),
        archs_checked=any(module.code.registers for module in found.modules),
    )
    for line in describe(audit, spec):
        say(f"proved: {line}")
    return audit


def describe(audit: Audit, spec: BuildSpec) -> tuple[str, ...]:
    """What was proved, a line each, for the person who waits."""
    found, contents = audit.inspection, audit.inspection.contents
    loaded = [name for name in spec.op_names if name not in audit.not_loaded]
    lines = [
        f"{contents.tags[0]}, accelerator {contents.accelerator}",
        f"ops asked for = installed = compiled: {', '.join(spec.op_names)}",
        f"loaded with compiling turned off: {', '.join(loaded) or 'none'}",
        *(f"{op} not loadable here: {why}" for op, why in audit.not_loaded.items()),
    ]
    if "cpu_adam" in loaded:
        lines.append(f"cpu_adam agrees with torch.optim.AdamW within {ADAM_TOLERANCE}")
    if audit.archs_checked:
        ptx = f", PTX {', '.join(found.ptx)}" if found.ptx else ", no PTX"
        lines.append(f"device code for {', '.join(found.archs)}{ptx}")
    if audit.isa_checked:
        lines.append(f"no instruction above {spec.cpu.name}")
    lines.append(f"needs glibc {found.glibc}, GLIBCXX {found.glibcxx}; no path of this machine")
    return tuple(lines)


def compare_contents(contents: Contents, spec: BuildSpec, *, wheel: str) -> None:
    """BuildError unless ops asked for == ops DeepSpeed calls installed == modules in the wheel."""
    if len(contents.tags) != 1 or contents.tags[0].endswith("-none-any"):
        raise _refused(
            wheel, f"tags {', '.join(contents.tags)}", "one platform's tag: compiled ops"
        )
    if contents.accelerator != spec.accelerator:
        found = f"built for accelerator {contents.accelerator or 'unknown'}"
        raise _refused(wheel, found, spec.accelerator)
    if set(contents.installed_ops) != set(spec.op_names):
        found = _difference(set(contents.installed_ops), spec)
        raise _refused(wheel, found, f"ops {', '.join(spec.op_names)}")
    for op in spec.ops:
        if op.name not in contents.modules:
            raise _refused(wheel, f"op {op.name} without its module", f"{op.module_path}.*.so")
    if extra := contents.modules.keys() - set(spec.op_names):
        raise _refused(wheel, f"modules of {', '.join(sorted(extra))}", "the asked ops' only")


def compare_module(module: Module, spec: BuildSpec) -> None:
    """BuildError unless a module's instructions and device code are those asked for."""
    above = module.instructions.above(spec.cpu) if module.instructions else ()
    if above:
        found = f"op {module.op}: {above[0].instruction} in {above[0].function}"
        raise _refused(f"op {module.op}", found, f"no instruction above {spec.cpu.name}")
    wanted = cubin.wanted_code(spec.archs if module.code.registers else ())
    found_code, code = (f"{_codes(one)}" for one in (module.code, wanted))
    if found_code != code:
        raise _refused(f"op {module.op}", f"device code for {found_code}", code)


def _codes(code: cubin.DeviceCode) -> str:
    return ", ".join((*code.cubins, *(f"PTX {one}" for one in code.ptx))) or "no GPU"


def compare_places(places: Mapping[str, str], *, wheel: str) -> None:
    """BuildError when a file of the wheel holds a path of this machine."""
    for name, path in places.items():
        raise _refused(wheel, f"{path} in {name}", "no path of this machine in any file")


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
    path: Path, wheel: Path, python: str, torch_packages: Path, log: IO[str]
) -> None:
    """A new environment that holds the wheel's files, and sees torch."""
    shutil.rmtree(path, ignore_errors=True)
    argv = (python, "-m", "venv", "--without-pip", str(path))
    status = apply_command(Command(argv=argv, environ={"PATH": "/usr/bin:/bin"}), log=log)
    packages = next(path.glob("lib/python*/site-packages"), None)
    if status != 0 or packages is None:
        raise _refused(wheel.name, f"python -m venv exit status {status}", "a fresh environment")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "torch.pth").write_text(f"{torch_packages}\n", encoding="utf-8")


def _apply_proof(
    fresh: Path, spec: BuildSpec, log: IO[str], say: Callable[[str], None]
) -> Mapping[str, str]:
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
        on_idle=lambda seconds: say(f"proving the wheel: {seconds:.0f} s"),
    )
    return compare_proof(parse_proof(lines), spec, status=status)


def parse_proof(lines: list[str]) -> dict[str, Any]:
    """proof.py's answers, merged: op → "loading", "ok" or the error; "adam" → difference."""
    answers: dict[str, Any] = {}
    for line in lines:
        if line.startswith("zerofleet-proof "):
            answers.update(json.loads(line.removeprefix("zerofleet-proof ")))
    return answers


def compare_proof(answers: Mapping[str, Any], spec: BuildSpec, *, status: int) -> Mapping[str, str]:
    """BuildError unless every op was loaded and its Adam, if it has one, agrees with torch's.

    Returns the ops that proof.py could not load for want of a GPU driver, each with its reason.
    """
    not_loaded = {}
    for op in spec.op_names:
        answer = str(answers.get(op, "not reached"))
        if answer == "loading":
            answer = f"the interpreter ended while it was loaded (exit status {status})"
        if answer.startswith(NO_DRIVER) and spec.accelerator != "cpu":
            not_loaded[op] = answer.removeprefix(NO_DRIVER)
        elif answer != "ok":
            raise _refused(f"op {op}", answer, "the op loads in a fresh environment")
    if "cpu_adam" in spec.op_names:
        difference = answers.get("adam")
        if not isinstance(difference, float) or not difference <= ADAM_TOLERANCE:
            found = "no answer" if difference is None else f"a difference of {difference}"
            expected = f"steps within {ADAM_TOLERANCE} of torch.optim.AdamW"
            raise _refused("op cpu_adam", f"{found} (exit status {status})", expected)
    if status != 0:
        raise _refused("the audit", f"exit status {status}", "0")
    return not_loaded
