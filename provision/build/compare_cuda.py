"""Whether GPU code can be compiled here for what is wanted: torch, toolkit, GPUs, host compiler."""

from __future__ import annotations

from packaging.version import Version

from provision.build.arch import BF16_FROM, nearest, number_of
from provision.build.spec import BuildSpec
from provision.build.toolchain import HERE, CudaFacts, Toolchain
from provision.build.toolkit import NEEDED, Toolkit
from provision.compat import cudas_for
from provision.findings import Finding, Judge, Level

#: Makes findings about the machine that builds.
finding = Judge(host=HERE)


def compare_cuda(spec: BuildSpec, toolchain: Toolchain) -> tuple[Finding, ...]:
    """What a CUDA wheel needs beyond a CPU wheel; nothing for the cpu accelerator."""
    cuda = toolchain.cuda
    if cuda is None:
        return ()
    findings = [_compare_torch(spec, cuda)]
    if cuda.torch_cuda:
        findings.append(_compare_toolkit(spec, cuda))
    if cuda.toolkit is not None:
        findings += _compare_archs(spec, cuda.toolkit)
        findings += _compare_gcc(toolchain, cuda.toolkit)
        findings += _compare_parts(spec, cuda, cuda.toolkit)
    return (*findings, *_compare_bf16(spec))


def _compare_torch(spec: BuildSpec, cuda: CudaFacts) -> Finding:
    if not cuda.torch_cuda:
        remedy = f"name a build of it, as in --torch {spec.torch.public}+cu130"
        return finding("torch CUDA", Level.UNKNOWN, f"unknown of {spec.torch}", "a version", remedy)
    if cuda.torch_read:
        expected = "that of the torch in the build environment"
    else:
        expected = f"that of torch {spec.torch}; read again once it is there"
    return finding("torch CUDA", Level.OK, cuda.torch_cuda, expected)


def _compare_toolkit(spec: BuildSpec, cuda: CudaFacts) -> Finding:
    expected = f"CUDA {cuda.torch_cuda}, as torch has"
    if cuda.toolkit is not None:
        return finding("toolkit", Level.OK, cuda.toolkit, expected)
    asked = [one for one in cuda.toolkits if spec.toolkit in ("auto", one.kind)]
    found = ", ".join(str(one) for one in asked) or "none"
    remedy = f"install CUDA {cuda.torch_cuda} and name it with CUDA_HOME"
    if spec.toolkit == "system":
        remedy += ", or leave --toolkit out: nvcc then comes as packages where there are any"
    elif spec.toolkit == "pypi":
        remedy += ", and leave --toolkit out"
    return finding("toolkit", Level.ERROR, found, expected, remedy)


def _compare_archs(spec: BuildSpec, toolkit: Toolkit) -> list[Finding]:
    expected = f"one that CUDA {toolkit.cuda} compiles: {' '.join(toolkit.archs)}"
    if not toolkit.archs:
        remedy = "see what nvcc --list-gpu-arch says"
        return [finding("--arch", Level.UNKNOWN, "unknown to its nvcc", "a list", remedy)]
    findings = []
    for arch in spec.archs:
        number = number_of(arch)
        if number in toolkit.archs:
            findings.append(finding("--arch", Level.OK, arch, expected))
            continue
        able = cudas_for(number)
        instead = f"the nearest here is {nearest(number, toolkit.archs)}"
        if able:
            span = able[0] if able[0] == able[-1] else f"{able[0]} to {able[-1]}"
            instead += f"; CUDA {span} compiles {number}: name a torch of that CUDA with --torch"
        findings.append(finding("--arch", Level.ERROR, arch, expected, instead))
    return findings


def _compare_gcc(toolchain: Toolchain, toolkit: Toolkit) -> list[Finding]:
    version = toolchain.compiler_version
    if version is None:
        return []  # compare_toolchain says so
    if toolkit.gcc is None:
        remedy = "its include/crt/host_config.h names none: is the toolkit whole?"
        return [finding("g++ for nvcc", Level.UNKNOWN, version, "a version it accepts", remedy)]
    level = Level.OK if version.major <= toolkit.gcc else Level.ERROR
    expected = f"g++ <= {toolkit.gcc}, the newest that nvcc {toolkit.version} accepts"
    remedy = "" if level is Level.OK else "install an older one, and name it with CXX"
    return [finding("g++ for nvcc", level, version, expected, remedy)]


def _compare_parts(spec: BuildSpec, cuda: CudaFacts, toolkit: Toolkit) -> list[Finding]:
    expected = "in the toolkit, or in the packages that torch requires"
    remedy = "install the whole toolkit"
    if toolkit.kind == "system":
        remedy += ", or leave this one be: --toolkit pypi"
    wanted = (*NEEDED, *spec.toolkit_parts)
    return [
        finding(part, Level.ERROR, "none", expected, remedy)
        for part in cuda.missing
        if part in wanted
    ]


def _compare_bf16(spec: BuildSpec) -> list[Finding]:
    below = [arch for arch in spec.archs if Version(number_of(arch)) < BF16_FROM]
    if not below:
        return []
    others = len(below) < len(spec.archs)
    expected = f">= {BF16_FROM} throughout, for BF16 kernels"
    remedy = "DeepSpeed compiles none of them for any GPU of this list"
    if others:
        remedy += f": build a wheel of its own for {' '.join(below)}"
    return [finding("--arch", Level.WARN, " ".join(below), expected, remedy)]
