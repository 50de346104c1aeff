"""Judge the GPUs that a run would take: enough, idle, able to do what the recipe asks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.findings import Finding, Judge, Level
from provision.hosts.facts import HostFacts, parse_version
from provision.preflight.ready import Wanted

#: MiB in use on an idle GPU: a display server or the driver itself take a few hundred.
_IDLE_MIB = 1024
#: What a recipe may ask for → the lowest compute capability that has it.
#: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#arithmetic-instructions (bf16)
#: https://github.com/Dao-AILab/flash-attention#installation-and-features
_NEEDS = {
    "bf16": "8.0",
    "flash_attention_2": "8.0",
    "flash_attention_3": "9.0",
}
_INSTEAD = {
    "bf16": "--set bf16=false --set fp16=true",
    "flash_attention_2": "--set attn_implementation=sdpa",
    "flash_attention_3": "--set attn_implementation=flash_attention_2",
}
#: Xids that a program of the user's causes; all others are the driver's or the hardware's.
#: https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html
_XIDS_OF_PROGRAMS = {13, 31, 43, 45}


def asked(wanted: Wanted) -> tuple[str, ...]:
    """What a run's flags ask of a GPU, of what only newer ones have."""
    bf16 = wanted.on("bf16", default=True)
    attention = str(wanted.flags.get("attn_implementation") or "")
    return tuple(["bf16"] * bf16 + [attention] * (attention in _NEEDS))


def gpus_of_run(
    facts: HostFacts, ranks: int, devices: tuple[int, ...] | None
) -> tuple[Mapping[str, Any], ...]:
    """The GPUs that a run's ranks get, as far as they are there: the first ones, or ``devices``."""
    if devices is None:
        return facts.gpus[:ranks]
    return tuple(gpu for gpu in facts.gpus if str(gpu.get("index")) in map(str, devices))


def chosen_gpus(devices: tuple[int, ...]) -> dict[str, str]:
    """The variables by which a host's ranks see these GPUs alone, numbered as nvidia-smi does.

    CUDA itself puts the fastest first: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    """
    chosen = ",".join(map(str, devices))
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": chosen}


def judge_gpus(judge: Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    """GPUs of one host; on the CPU, that nothing is asked which only GPUs have."""
    slots = wanted.slots[judge.host]
    if wanted.accelerator == "cpu":
        return _cpu(judge, wanted, slots)
    if facts["gpus"].unknown:
        remedy = "run nvidia-smi there; after a driver upgrade, reboot"
        return [judge("gpus", Level.UNKNOWN, facts["gpus"], f"{slots} GPUs", remedy)]
    named = wanted.devices.get(judge.host)
    gpus = gpus_of_run(facts, slots, named)
    expected = f"{slots} or more" if named is None else f"GPU {', '.join(map(str, named))}"
    enough = Level.OK if slots <= len(gpus) else Level.ERROR
    remedy = "is one lost? (nvidia-smi, dmesg); or lower slots= for this host"
    findings = [judge("gpus", enough, len(facts.gpus), expected, remedy)]
    for gpu in gpus:
        findings += _busy(judge, gpu, facts["gpu.processes"].value or ())
    return findings + _ability(judge, wanted, gpus) + _xids(judge, facts)


def _cpu(judge: Judge, wanted: Wanted, slots: int) -> list[Finding]:
    findings = [judge("slots", Level.OK, f"{slots} on the CPU", "ranks on the CPU")]
    for need in asked(wanted):
        if need != "bf16":
            expected = "what runs on the CPU"
            findings.append(judge("attention", Level.ERROR, need, expected, _INSTEAD[need]))
    return findings


def _busy(
    judge: Judge, gpu: Mapping[str, Any], processes: tuple[Mapping[str, Any], ...]
) -> list[Finding]:
    used = parse_version(gpu.get("memory_used"))
    if used is None or used.major <= _IDLE_MIB:
        return []
    mine = [p for p in processes if p.get("gpu") == gpu.get("uuid")]
    who = ", ".join(f"pid {p['pid']} ({p['name']}, {p['memory'] or '?'} MiB)" for p in mine)
    found = f"{gpu['memory_used']} MiB in use on GPU {gpu['index']}{': ' if who else ''}{who}"
    pid = mine[0]["pid"] if mine else "PID"
    remedy = f"something else runs there: ps -o user,etime,args -p {pid}"
    return [judge("gpu in use", Level.ERROR, found, "an idle GPU", remedy)]


def _ability(judge: Judge, wanted: Wanted, gpus: tuple[Mapping[str, Any], ...]) -> list[Finding]:
    findings = []
    kinds = dict.fromkeys((gpu.get("name"), gpu.get("compute_cap")) for gpu in gpus)
    for need in asked(wanted):
        least = parse_version(_NEEDS[need])
        for name, capability in kinds:
            has = parse_version(capability)
            found = f"{name} (compute capability {capability or 'unknown'})"
            expected = f"{_NEEDS[need]} or later, for {need}"
            if has is None or least is None:
                findings.append(judge(need, Level.UNKNOWN, found, expected, _INSTEAD[need]))
            else:
                level = Level.OK if has >= least else Level.ERROR
                findings.append(judge(need, level, found, expected, _INSTEAD[need]))
    return findings


def _xids(judge: Judge, facts: HostFacts) -> list[Finding]:
    bad = [x for x in facts["gpu.xid"].value or () if int(x["xid"]) not in _XIDS_OF_PROGRAMS]
    if not bad:
        return []
    last = bad[-1]
    found = f"{len(bad)} since boot, the last: Xid {last['xid']} on {last['pci']}"
    remedy = "look it up in NVIDIA's Xid catalog; a reset or reboot clears what is not hardware"
    return [judge("gpu faults", Level.WARN, found, "no Xid of driver or hardware", remedy)]
