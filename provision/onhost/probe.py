"""What this host is: one JSON object of facts, in one round trip.

    probe.py [JSON]    {"peers": [name or address, …], "paths": [path, …]}

Every fact is {"value": …}, {"absent": true} (looked for, not there) or {"unknown": "reason"}
(could not be read); hosts/fact_table.py says what each looks like. The facts are read side by
side, each with its deadline, so that a hung file system or name server hides no other fact. Writes
nothing. Standard library only, Python 3.8 or later, no root (what needs it is unknown without).
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import socket
import sys
import time
from typing import Any, Callable

from provision.onhost import probe_deployed, probe_disk, probe_gpu, probe_host, probe_net
from provision.onhost.converse import reply
from provision.onhost.probe_read import first_match, read_file, reason, side_by_side

#: Seconds for everything, below any controller's own limit.
SECONDS = 45


def read_os() -> object:
    """Distribution name, e.g. "Debian GNU/Linux 12 (bookworm)"."""
    return first_match(r'^PRETTY_NAME="?([^"\n]*)', read_file("/etc/os-release"))


def account() -> Any:
    """Our entry in the user database."""
    return pwd.getpwuid(os.getuid())


def readers(peers: list[str], paths: list[str]) -> dict[str, Callable[[], Any]]:
    """Fact → what reads it, those of GPUs and the clock aside."""
    cpuinfo = "/proc/cpuinfo"
    model = r"^(?:model name|Model|Hardware)\s*:\s*(.*)$"
    return {
        "hostname": socket.gethostname,
        "hostname.addresses": probe_net.read_hostname_addresses,
        "user": lambda: account().pw_name,
        "shell": lambda: account().pw_shell,
        "home": lambda: os.path.expanduser("~"),
        **probe_disk.HOMES,
        "machine_id": lambda: read_file("/etc/machine-id"),
        "boot_id": lambda: read_file("/proc/sys/kernel/random/boot_id"),
        "namespaces": probe_host.read_namespaces,
        "container": probe_host.read_container,
        "os": read_os,
        "kernel": platform.release,
        "machine": platform.machine,
        "glibc": probe_host.read_glibc,
        "glibcxx": probe_host.read_glibcxx,
        "proxies": probe_host.read_proxies,
        "cpu.model": lambda: first_match(model, read_file(cpuinfo)),
        "cpu.level": probe_host.read_cpu_level,
        "cpu.flags": lambda: probe_host.read_cpu_flags() or None,
        "cpu.cores": lambda: len(os.sched_getaffinity(0)),
        "cpu.quota": probe_host.read_cpu_quota,
        "numa": probe_host.read_numa,
        "numactl": lambda: shutil.which("numactl"),
        "memory": probe_host.read_memory,
        "memory.limit": probe_host.read_memory_limit,
        "limits": probe_host.read_limits,
        "disk": lambda: probe_disk.read_disk("~/.zerofleet"),
        "disks": lambda: probe_disk.read_disks(paths),
        "shm": probe_disk.read_shm,
        "pythons": probe_deployed.read_pythons,
        "environment": probe_deployed.read_environment,
        "environment.now": probe_deployed.read_environment_now,
        "environments": probe_deployed.read_environments,
        "store": probe_deployed.read_store,
        "toolkits": lambda: probe_gpu.read_toolkits() or None,
        "interfaces": probe_net.read_interfaces,
        "infiniband": probe_net.read_infiniband,
        "routes": lambda: probe_net.read_routes(peers),
        "ports.ephemeral": probe_net.read_ephemeral,
        "firewall": probe_net.read_firewall,
        "firewall.tool": probe_net.read_firewall_tool,
    }


def fact(found: object) -> dict[str, object]:
    """A fact as it is answered; None and "" mean absent."""
    if isinstance(found, Exception):
        return {"unknown": reason(found)}
    return {"absent": True} if found is None or found == "" else {"value": found}


def read_facts(peers: list[str], paths: list[str]) -> dict[str, dict[str, object]]:
    """All facts; one that can't be read says why and hides none of the others."""
    clock, began = time.time(), time.monotonic()
    found = side_by_side({"gpu": probe_gpu.read_gpu_facts, **readers(peers, paths)}, SECONDS)
    gpu = found.pop("gpu")
    found.update(dict.fromkeys(probe_gpu.FACTS, gpu) if isinstance(gpu, Exception) else gpu)
    kits = found["toolkits"]
    found["toolkit"] = kits[0]["version"] if isinstance(kits, list) else kits
    found.update({"clock": clock, "clock.took": time.monotonic() - began})
    return {name: fact(found[name]) for name in sorted(found)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    reply(read_facts(given.get("peers", []), given.get("paths", [])))
    os._exit(0)  # threads that wait for a dead disk are left to the kernel
