"""Parity: do the hosts fit what is wanted, the wheel, and each other? Pure.

Against the wheel a misfit is an error, because the run would fail there. Among the hosts the
majority is named and the odd ones out are shown, as hard as the subject deserves (traits.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from packaging.version import Version

from provision.compat import arch_covers, cpu_runs, driver_minimum, driver_of_toolkit
from provision.findings import UNREAD, Finding, Level, Report
from provision.hosts.among import Slots, compare_among
from provision.hosts.facts import HostFacts, parse_version
from provision.hosts.machines import compare_machines
from provision.wheel.manifest import WheelManifest

#: Below it, processes of a distributed run may hang: accelerate warns of it, too.
#: check_os_kernel, https://github.com/huggingface/accelerate/blob/main/src/accelerate/utils/other.py
_KERNEL = "5.5"
#: What nvidia-smi says when no GPU can be used → what to do. The wording is NVML's:
#: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html (nvmlReturn_t)
_BROKEN_DRIVER = {
    "Driver/library version mismatch": "the driver was upgraded below the loaded kernel module: "
    "reboot, or stop what uses the GPUs and reload the nvidia modules",
    "couldn't communicate with the NVIDIA driver": "the kernel module is not loaded: modprobe "
    "nvidia; after a new kernel, build it again (dkms autoinstall)",
    "No devices were found": "the driver runs and finds no GPU: dmesg | grep -iE 'nvrm|xid'",
    "GPU is lost": "reboot that host; dmesg | grep -i xid says why (79: it fell off the bus)",
    "Insufficient Permissions": "may this user open /dev/nvidia*? (groups video, render)",
}


def compare(
    manifest: WheelManifest | None,
    torch: str,
    hosts: Mapping[str, HostFacts],
    *,
    lock: str | None = None,
    deployed: bool = True,
    slots: Slots | None = None,
) -> Report:
    """Findings of every host against the wheel (if there is one), then among the hosts.

    Args:
        manifest: of the wheel that the hosts are to run.
        torch: the version that the environment pins, e.g. "2.13.0".
        hosts: the facts, in host order.
        lock: the environment that the wheel and locks/train.lock make, if that is known.
        deployed: hold the environments in use to it as well; a deploy is about to replace them.
        slots: what the hosts file says of each host; fewer GPUs are then no fault.
    """
    gpu = manifest is None or manifest.torch_cuda is not None
    findings: list[Finding] = []
    for facts in hosts.values():
        findings += _system(facts, gpu=gpu)
        if manifest is not None:
            findings += compare_wheel(manifest, torch, facts)
        if deployed:
            findings += compare_environment(manifest, lock, facts)
    findings += compare_machines(hosts, gpu=gpu)
    findings += compare_among(hosts, gpu=gpu, deployed=deployed, slots=slots or {})
    return Report(findings=tuple(findings))


def compare_wheel(manifest: WheelManifest, torch: str, facts: HostFacts) -> list[Finding]:
    """One host against the wheel: everything that would make it fail there."""
    findings = [_torch(manifest, torch, facts), _python(manifest, facts), _machine(manifest, facts)]
    findings += [
        _at_least(facts, "glibc", manifest.glibc, "use a newer OS, or build on an older one"),
        _at_least(facts, "glibcxx", manifest.glibcxx, "use a newer libstdc++, or an older g++"),
        _cpu(manifest, facts),
    ]
    if manifest.torch_cuda:
        findings += [_driver(manifest, facts), *_gpus(manifest, facts)]
    return findings


def compare_environment(
    manifest: WheelManifest | None, lock: str | None, facts: HostFacts
) -> list[Finding]:
    """The environment in use on one host, against the wheel it should hold."""
    record, now = facts["environment"], facts["environment.now"]
    if record.unknown or record.absent:
        level = Level.UNKNOWN if record.unknown else Level.NOTE
        wanted = lock or "one, before a run"
        found = record if record.unknown else "none"
        return [facts.judge("environment", level, found, wanted, "run: invoke deploy")]
    environment, held = facts.environment, dict(now.value or {})
    findings = []
    if now.unknown:
        expected = f"torch {environment.get('torch')}, as proved"
        findings += [facts.judge.judged("environment", None, now, expected, UNREAD)]
    for name in ("torch", "torch_cuda", "deepspeed"):
        if not now.unknown and not _same_version(held.get(name), environment.get(name)):
            found, proved = f"{name} {held.get(name)}", f"{environment.get(name)}, as deploy proved"
            remedy = f"it was changed since: remove {environment.get('path')}, run: invoke deploy"
            findings.append(facts.judge.judged("environment", False, found, proved, remedy))
    wanted_of = {"lock": lock} if lock else {}
    if manifest is not None:
        wanted_of |= {"torch": manifest.torch, "wheel_sha256": manifest.sha256}
    for name, want in wanted_of.items():
        good, found = environment.get(name) == want, str(environment.get(name))
        subject = f"environment.{name.removesuffix('_sha256')}"
        short = 12 if name == "wheel_sha256" else None
        expected = f"{want[:short]} ({manifest.wheel if manifest and short else 'this wheel'})"
        findings.append(
            facts.judge.judged(subject, good, found[:short], expected, "run: invoke deploy")
        )
    return findings


def _same_version(one: object, other: object) -> bool:
    """Equal; a local part ("+cpu") counts only where both name one."""
    a, b = parse_version(one), parse_version(other)
    if a is None or b is None:
        return one == other
    return a == b if a.local and b.local else a.public == b.public


def _system(facts: HostFacts, *, gpu: bool) -> list[Finding]:
    """What is wrong with one host whatever it is to run."""
    findings = []
    kernel = parse_version(".".join(str(facts["kernel"].value).split("-")[0].split(".")[:2]))
    if kernel is not None and kernel < Version(_KERNEL):
        why = "processes of a distributed run may hang on older ones"
        expected = f"{_KERNEL} or later"
        findings.append(facts.judge("kernel", Level.WARN, facts["kernel"], expected, why))
    level = Level.ERROR if gpu else Level.NOTE
    unread = facts["gpus"].unknown
    for words, remedy in _BROKEN_DRIVER.items():
        if words.lower() in unread.lower():
            expected = "a driver that answers nvidia-smi"
            findings.append(facts.judge("driver", level, unread, expected, remedy))
    on_bus, listed = len(facts["gpu.pci"].value or ()), len(facts.gpus)
    if listed and on_bus > listed:
        remedy = "one fell off the bus (dmesg | grep -i xid), or this login may not see all"
        found, expected = f"{listed} in nvidia-smi", f"{on_bus}, as on the PCI bus"
        level = Level.WARN if gpu else Level.NOTE
        findings.append(facts.judge("gpu.count", level, found, expected, remedy))
    return findings


def _torch(manifest: WheelManifest, torch: str, facts: HostFacts) -> Finding:
    built, pinned = parse_version(manifest.torch), parse_version(torch)
    good = built is not None and pinned is not None and built.public == pinned.public
    return facts.judge.judged(
        "torch",
        good,
        f"a wheel built for torch {manifest.torch}",
        f"torch {torch}",
        f"rebuild it: invoke build-deepspeed --torch {torch}",
    )


def _python(manifest: WheelManifest, facts: HostFacts) -> Finding:
    tag = manifest.python_tag
    wanted = f"{tag[2]}.{tag[3:]}"
    python = facts.python_for(tag)
    if facts["pythons"].unknown:
        return facts.judge.judged("python", None, facts["pythons"], wanted, UNREAD)
    if python is None:
        versions = ", ".join(dict.fromkeys(p.version for p in facts.pythons)) or "none"
        remedy = f"install python{wanted} there, or build the wheel with a Python that is there"
        return facts.judge.judged(
            "python", False, versions, f"{wanted} (the wheel is {tag})", remedy
        )
    return facts.judge.judged("python", True, python.version, wanted, "")


def _machine(manifest: WheelManifest, facts: HostFacts) -> Finding:
    machine = facts["machine"]
    good = None if machine.unknown else manifest.platform.endswith(f"_{machine.value}")
    remedy = "build a wheel on a machine of that kind"
    return facts.judge.judged("machine", good, machine, manifest.platform, remedy)


def _at_least(facts: HostFacts, subject: str, floor: str, remedy: str) -> Finding:
    found, wanted = parse_version(facts[subject].value), parse_version(floor)
    good = None if found is None or wanted is None else found >= wanted
    return facts.judge.judged(subject, good, facts[subject], f"{floor} or later", remedy)


def _cpu(manifest: WheelManifest, facts: HostFacts) -> Finding:
    good = cpu_runs(str(facts["cpu.level"].value), manifest.cpu)
    remedy = f"rebuild for it: invoke build-deepspeed --cpu {facts['cpu.level']}"
    return facts.judge.judged("cpu", good, facts["cpu.level"], f"{manifest.cpu} or later", remedy)


def _driver(manifest: WheelManifest, facts: HostFacts) -> Finding:
    """The driver runs any toolkit of its CUDA major version, but compiles no newer PTX."""
    torch_cuda, found = str(manifest.torch_cuda), parse_version(facts["gpu.driver"].value)
    minimum, needs = driver_minimum(torch_cuda), f"torch CUDA {torch_cuda}"
    remedy = "upgrade the driver, or build against a torch for an older CUDA"
    cubins = tuple(arch.removesuffix("+PTX") for arch in manifest.arch_list)
    capabilities = [gpu["compute_cap"] for gpu in facts.gpus if gpu["compute_cap"]]
    if manifest.toolkit and any(not arch_covers(cubins, each) for each in capabilities):
        exact = driver_of_toolkit(manifest.toolkit)
        if exact is None or minimum is None or exact > minimum:
            minimum, needs = exact, f"PTX of toolkit {manifest.toolkit}, compiled by the driver"
            remedy = "upgrade the driver, or rebuild with this GPU's own capability in --arch"
    if facts["gpu.driver"].absent:
        good: bool | None = False
    else:
        good = None if minimum is None or found is None else found >= minimum
    expected = f"{minimum or 'a driver known'} or later ({needs})"
    return facts.judge.judged("driver", good, facts["gpu.driver"], expected, remedy)


def _gpus(manifest: WheelManifest, facts: HostFacts) -> list[Finding]:
    expected = f"a GPU that {' '.join(manifest.arch_list)} runs on"
    if not facts.gpus:
        good = None if facts["gpus"].unknown else False
        remedy = "is the driver loaded? (nvidia-smi)"
        return [facts.judge.judged("gpu", good, facts["gpus"], expected, remedy)]
    kinds = dict.fromkeys((gpu["name"], gpu["compute_cap"]) for gpu in facts.gpus)
    return [
        facts.judge.judged(
            "gpu",
            arch_covers(manifest.arch_list, capability) if capability else None,
            f"{name} ({capability})",
            expected,
            f"rebuild with {capability} in the list: invoke build-deepspeed --arch …"
            if capability
            else "upgrade the driver: this one can't tell the GPU's compute capability",
        )
        for name, capability in kinds
    ]
