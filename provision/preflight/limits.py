"""Judge what a host allows a run: shared memory, memory, files, CPU, clock, logout. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from statistics import median
from typing import Any

from provision.findings import UNREAD, Finding, Judge, Level
from provision.hosts.facts import HostFacts
from provision.hosts.machines import home_owners
from provision.numbers import size
from provision.preflight.ready import Wanted
from provision.preflight.speed import speed_findings
from provision.preflight.storage import optimizer_bytes

_SHM = "/dev/shm"  # noqa: S108 - it is what is judged
#: DeepSpeed's shm_comm takes 66 MiB a rank of one host, NCCL 10 MiB a connection; 64 MB is what
#: Docker gives. Below the second, DeepSpeed's own ds_report warns, and NCCL's guide asks for 1 GB:
#: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html#shared-memory
_SHM_ERROR, _SHM_WARN = 128 << 20, 512 << 20
#: Bytes of memory a rank needs before it holds any weight: Python, torch, transformers.
_RANK = 1 << 30
#: Sockets and files of one process: libraries, logs, and about eight for each other rank.
_FILES, _FILES_A_RANK = 256, 8
#: RDMA locks what it sends from; 8 MiB is systemd's default.
#: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html#infiniband
_MEMLOCK = 1 << 30
#: Seconds. c10d rendezvous takes a node for dead that was not heard of for 15 s by its clock
#: (keep_alive_interval 5 x keep_alive_max_attempt 3): torch/distributed/elastic/rendezvous/
#: dynamic_rendezvous.py. Our runs name every rank instead, so less only mixes up the logs.
_CLOCK_WARN, _CLOCK_ERROR = 2.0, 15.0
#: Fewer cores a rank than others by this factor: all ranks wait for the slowest.
_SLOW_WARN, _SLOW_ERROR = 2.0, 4.0


def judge_limits(
    judge: Judge, wanted: Wanted, facts: HostFacts, answer: Mapping[str, Any]
) -> list[Finding]:
    """Everything about one host alone."""
    return [
        *_shm(judge, facts),
        *_files(judge, wanted, facts),
        *_memlock(judge, wanted, facts),
        *_memory(judge, wanted, facts, answer.get("model") or {}),
        *_ops(judge, wanted, facts, answer),
        *_logout(judge, answer.get("logout") or {}),
        *_locks(judge, answer),
    ]


def _shm(judge: Judge, facts: HostFacts) -> list[Finding]:
    if "shm" not in facts.facts:
        return []
    shm, expected = facts["shm"], f"{size(_SHM_WARN)} or more"
    remedy = f"mount -o remount,size=8G {_SHM} (in a container: --shm-size=8g)"
    if not shm.value:
        level = Level.UNKNOWN if shm.unknown else Level.ERROR
        return [judge(_SHM, level, shm if shm.unknown else "none", expected, remedy)]
    free, total = int(shm.value["free"]), int(shm.value["total"])
    level = Level.ERROR if free < _SHM_ERROR else Level.WARN if free < _SHM_WARN else Level.OK
    found = f"{size(free)} free of {size(total)}"
    if level is not Level.OK and total >= _SHM_WARN:
        remedy = f"something fills it: ls -la {_SHM}; files of runs that died may be removed"
    return [judge(_SHM, level, found if level is not Level.OK else "enough", expected, remedy)]


def _soft(facts: HostFacts, name: str) -> tuple[bool, int | None]:
    """Whether a limit is known, and its soft value (None: unlimited)."""
    limit = (facts["limits"].value or {}).get(name)
    return (False, None) if limit is None else (True, limit["soft"])


def _files(judge: Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    known, soft = _soft(facts, "nofile")
    if not known:
        return []
    need = _FILES + _FILES_A_RANK * wanted.world_size
    level = Level.OK if soft is None or soft >= need else Level.ERROR
    remedy = "raise it: /etc/security/limits.d (nofile), or LimitNOFILE of the SSH service"
    found = "unlimited" if soft is None else str(soft)
    expected = f"{need} or more, for {wanted.world_size} ranks"
    return [judge("open files", level, found, expected, remedy)]


def _memlock(judge: Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    ports = facts["infiniband"].value or ()
    known, soft = _soft(facts, "memlock")
    if not known or wanted.accelerator == "cpu" or not any(p["state"] == "ACTIVE" for p in ports):
        return []
    level = Level.OK if soft is None or soft >= _MEMLOCK else Level.ERROR
    remedy = "unlimited, for InfiniBand: /etc/security/limits.d (memlock), LimitMEMLOCK of sshd"
    found = "unlimited" if soft is None else size(soft)
    return [judge("memlock", level, found, f"{size(_MEMLOCK)} or more", remedy)]


def _memory(
    judge: Judge, wanted: Wanted, facts: HostFacts, model: Mapping[str, Any]
) -> list[Finding]:
    """Memory that the run needs at the least, against what is there and what cgroups allow."""
    memory, limit = facts["memory"].value, facts["memory.limit"].value
    if not memory:
        return [judge("memory", Level.UNKNOWN, facts["memory"], "to be readable", UNREAD)]
    free, what = int(memory["available"]), "available"
    if limit and int(limit["limit"]) - int(limit["used"]) < free:
        free = int(limit["limit"]) - int(limit["used"])
        what = f"left of the cgroup's {size(int(limit['limit']))}"
    ranks, weights = wanted.slots[judge.host], int(model.get("bytes") or 0)
    need = ranks * (_RANK + (weights if wanted.accelerator == "cpu" else 0))
    if wanted.offload != "none":
        need += int(optimizer_bytes(wanted, judge.host, model))
    level = Level.OK if free >= need else Level.ERROR
    found = f"{size(free)} {what}" if level is not Level.OK else "enough"
    expected = f"{size(need)} at the very least, for {ranks} ranks and {size(weights)} of weights"
    remedy = (
        "raise the limit or free memory there, start fewer ranks (slots=), or split more (--zero 3)"
    )
    return [judge("memory", level, found, expected, remedy)]


def _ops(
    judge: Judge, wanted: Wanted, facts: HostFacts, answer: Mapping[str, Any]
) -> list[Finding]:
    """The wheel's ops in this host's own environment; one that is not there is told elsewhere."""
    there = facts["environments"]
    if not wanted.proof or (there.value is not None and wanted.lock not in there.value):
        return []
    names, ops = ", ".join(wanted.proof.get("ops", ())), answer.get("ops") or {}
    expected = f"{names or 'DeepSpeed'} to load, nothing compiled on first use"
    if ops.get("loads"):
        return [judge("ops", Level.OK, "load", expected)]
    remedy = "make the environment anew there: remove it, then invoke deploy"
    return [judge("ops", Level.ERROR, ops.get("error", "no answer"), expected, remedy)]


def _logout(judge: Judge, logout: Mapping[str, Any]) -> list[Finding]:
    if logout.get("kills"):
        remedy = f"as root there: loginctl enable-linger {logout.get('user', '$USER')}"
        found = "systemd-logind ends all processes (KillUserProcesses=yes, no linger)"
        expected = "a run to live on when the SSH session closes"
        return [judge("logout", Level.ERROR, found, expected, remedy)]
    return []


def _locks(judge: Judge, answer: Mapping[str, Any]) -> list[Finding]:
    """Only a note: a run of ours has an extensions folder of its own."""
    findings = []
    for lock in answer.get("locks", ()):
        found = f"{lock['path']}, {float(lock['age']) / 60:.0f} minutes old"
        path = shlex.quote(str(lock["path"]))
        remedy = f"if nothing is compiling there: rm {path}; others' runs wait for it silently"
        findings.append(judge("extensions lock", Level.NOTE, found, "none", remedy))
    return findings


def judge_among(
    wanted: Wanted, facts: Mapping[str, HostFacts], answers: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """What only shows beside the other hosts: homes, clocks, and CPUs."""
    alone = [*_homes(wanted, facts), *_clocks(wanted, facts)]
    return [*alone, *speed_findings(answers), *_cores(wanted, facts)]


def _homes(wanted: Wanted, facts: Mapping[str, HostFacts]) -> list[Finding]:
    """Whether each host has a home of its own: its node's part of a run lies there, by the run's id
    alone, and a second node would find it taken.
    """
    owners = home_owners({host: facts[host] for host in wanted.slots})
    expected = "a ~/.zerofleet of its own: the folder of a run is in it"
    remedy = (
        "invoke undeploy, make ~/.zerofleet a link to a folder on each host's own disk, and deploy "
        "again; or run it as a Slurm job (invoke slurm)"
    )
    return [
        Judge(host=host).error("home", f"the very folder that {owner} has", expected, remedy)
        for host, owner in owners.items()
        if owner != host
    ]


def _clocks(wanted: Wanted, facts: Mapping[str, HostFacts]) -> list[Finding]:
    offsets = {h: facts[h]["clock.offset"].value for h in wanted.slots}
    known = {h: (float(o["seconds"]), float(o["bound"])) for h, o in offsets.items() if o}
    if not known:
        return []
    middle = sorted(seconds for seconds, _ in known.values())[len(known) // 2]
    findings = []
    for host, (seconds, bound) in known.items():
        # Only what is certain counts: the answer's own time on the way is in the bound.
        off = abs(seconds - middle) - bound - min(b for _, b in known.values())
        level = Level.ERROR if off > _CLOCK_ERROR else Level.WARN if off > _CLOCK_WARN else Level.OK
        found = f"{seconds - middle:+.1f} s (±{bound:.1f}) from the others"
        expected = f"within {_CLOCK_WARN:.0f} s"
        remedy = "start time synchronisation: timedatectl set-ntp true, there"
        text = expected if level is Level.OK else found
        findings.append(Judge(host=host)("clock", level, text, expected, remedy))
    return findings


def _cores(wanted: Wanted, facts: Mapping[str, HostFacts]) -> list[Finding]:
    """Cores a rank, as affinity and cgroup quotas allow them."""
    usable: dict[str, float] = {}
    for host, ranks in wanted.slots.items():
        cores, quota = facts[host]["cpu.cores"].value, facts[host]["cpu.quota"].value
        if cores:
            usable[host] = min(float(cores), float(quota or cores)) / ranks
    if len(usable) < 2:
        return []
    usual = median(usable.values())
    findings = []
    for host, count in usable.items():
        level = Level.ERROR if count * _SLOW_ERROR <= usual else Level.OK
        level = Level.WARN if usual / _SLOW_ERROR < count <= usual / _SLOW_WARN else level
        if level is not Level.OK:
            found = f"{count:.1f} a rank"
            remedy = "raise its CPU quota (cgroup cpu.max), or start fewer ranks there (slots=)"
            expected = f"about {usual:.1f}, as on other hosts: all wait for the slowest"
            findings.append(Judge(host=host)("cpu cores", level, found, expected, remedy))
    return findings
