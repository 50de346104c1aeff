"""Where a wheel contradicts itself, or its manifest: each contradiction a finding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provision.errors import ConfigError
from provision.findings import Finding, Judge, Level, Report
from provision.wheel import cubin, isa
from provision.wheel.inspect import Inspection
from provision.wheel.manifest import WheelManifest, read_manifest, sidecar


def read_manifest_beside(wheel: Path) -> tuple[WheelManifest | None, tuple[Finding, ...]]:
    """A wheel's manifest if it has one; a finding when it is another wheel's, or broken."""
    if not sidecar(wheel).is_file():
        return None, ()
    try:
        return read_manifest(wheel), ()
    except ConfigError as error:
        judge = Judge(host=wheel.name)
        return None, (judge.error("manifest", error.found, error.expected, error.remedy),)


def compare_inspection(
    found: Inspection, manifest: WheelManifest | None, beside: tuple[Finding, ...] = ()
) -> Report:
    """Where a wheel contradicts itself, and its manifest if it has one.

    ``beside``: what read_manifest_beside found wrong with the manifest itself.
    """
    findings = [
        *beside,
        *_compare_ops(found),
        *_compare_accelerator(found),
        *_compare_instructions(found),
    ]
    if manifest is not None:
        findings += _compare_manifest(found, manifest)
    return Report(findings=tuple(findings))


def _error(wheel: str, subject: str, found: object, expected: str) -> Finding:
    return Judge(host=wheel).error(subject, found, expected, "build it again")


def _compare_ops(found: Inspection) -> list[Finding]:
    contents, wheel = found.contents, found.name
    modules, installed = set(contents.modules), set(contents.installed_ops)
    findings = []
    if not modules and not installed:
        remedy = "every host compiles every op on first use; build one with invoke build-deepspeed"
        return [Judge(host=wheel)("ops", Level.NOTE, "none", "compiled ops", remedy)]
    if missing := sorted(installed - modules):
        expected = f"a module of {', '.join(missing)}, which it calls installed"
        findings.append(_error(wheel, "ops", "none", expected))
    if unsaid := sorted(modules - installed):
        expected = "in its list of installed ops: DeepSpeed compiles them again on every host"
        findings.append(_error(wheel, "ops", f"{', '.join(unsaid)} left out", expected))
    if any(tag.endswith("-any") for tag in contents.tags):
        findings.append(_error(wheel, "tag", ", ".join(contents.tags), "a platform's tag"))
    return findings


def _compare_accelerator(found: Inspection) -> list[Finding]:
    contents, wheel = found.contents, found.name
    findings = []
    if contents.accelerator == "cuda" and contents.torch_cuda is None:
        findings.append(_error(wheel, "torch", "one without CUDA", "accelerator cuda's"))
    if contents.accelerator == "cpu" and (found.archs or found.ptx):
        findings.append(_error(wheel, "device code", _code(found.archs, found.ptx), "none: cpu"))
    findings += [
        _error(wheel, f"device code of {one.op}", "none", "some")
        for one in found.modules
        if one.code.registers and not (one.code.cubins or one.code.ptx)
    ]
    codes = {(one.code.cubins, one.code.ptx) for one in found.modules if one.code.registers}
    if len(codes) > 1:
        expected = "one list for all ops"
        texts = "; ".join(
            f"{one.op}: {_code(one.code.cubins, one.code.ptx)}"
            for one in found.modules
            if one.code.registers
        )
        findings.append(_error(wheel, "device code", texts, expected))
    return findings


def _compare_instructions(found: Inspection) -> list[Finding]:
    findings, judge = [], Judge(host=found.name)
    if any(one.instructions is None for one in found.modules):
        remedy = "install binutils (objdump)"
        findings.append(judge("instructions", Level.UNKNOWN, "unknown", "a CPU level", remedy))
    findings += [
        judge(
            f"instructions of {one.op}",
            Level.WARN,
            f"{one.instructions.beyond[0].instruction} in {one.instructions.beyond[0].function}",
            "none that no x86-64 level has, unless the CPU is asked first",
            "run it on the CPUs it was built for, or build it again with --cpu",
        )
        for one in found.modules
        if one.instructions and one.instructions.beyond
    ]
    return findings


def _compare_manifest(found: Inspection, manifest: WheelManifest) -> list[Finding]:
    code = cubin.wanted_code(manifest.arch_list)
    has_code = any(one.code.registers for one in found.modules)
    facts: Mapping[str, tuple[object, object]] = {
        "ops": (sorted(found.contents.modules), sorted(manifest.ops)),
        "accelerator": (found.contents.accelerator, manifest.accelerator),
        "glibc": (found.glibc or "", manifest.glibc),
        "glibcxx": (found.glibcxx or "", manifest.glibcxx),
        **({"archs": (found.archs, code.cubins), "ptx": (found.ptx, code.ptx)} if has_code else {}),
    }
    findings = [
        _error(found.name, subject, _text(value), f"{_text(said)} (its manifest)")
        for subject, (value, said) in facts.items()
        if value != said
    ]
    for one in found.modules:
        above = one.instructions.above(isa.find_level(manifest.cpu)) if one.instructions else ()
        if above:
            text = f"{above[0].instruction} in {above[0].function}"
            expected = f"none above {manifest.cpu} (its manifest)"
            findings.append(_error(found.name, f"instructions of {one.op}", text, expected))
    return findings


def _code(cubins: tuple[str, ...], ptx: tuple[str, ...]) -> str:
    return ", ".join((*cubins, *(f"PTX {one}" for one in ptx))) or "none"


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or "none"
    return str(value) or "none"
