"""What a host is, network, GPUs and disks aside: its system, its CPU, its memory.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import resource
import shutil
from typing import Iterator

from provision.onhost.probe_read import first_match, output, read_file

# The four x86-64 levels as /proc/cpuinfo names their flags, each on top of the one before:
# https://gitlab.com/x86-psABIs/x86-64-ABI (table "Micro-Architecture Levels")
X86_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


# Who it is, and its system.


def read_namespaces() -> object:
    """Identity of our network, mount and process namespaces: namespaces(7)."""
    kinds = ("net", "mnt", "pid")
    return {kind: os.readlink("/proc/self/ns/" + kind).strip("netmpid:[]") for kind in kinds}


def read_container() -> object:
    """What kind of container this is, by the marks that each leaves; absent on a machine."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    for path, kind in (("/run/.containerenv", "podman"), ("/.dockerenv", "docker")):
        if os.path.exists(path):
            return kind
    return read_file("/run/systemd/container")


def read_glibc() -> object:
    """Glibc's version; absent on musl."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except ValueError:  # musl does not know the name
        return None
    return version if name == "glibc" else None


def read_glibcxx() -> object:
    """Newest GLIBCXX symbol version of the libstdc++ that the loader would take."""
    listing = output([shutil.which("ldconfig") or "/sbin/ldconfig", "-p"])
    machine = {"x86_64": "x86-64", "aarch64": "AArch64"}.get(platform.machine(), "")
    rows = re.findall(r"libstdc\+\+\.so\.6 \((.*?)\) => (\S+)", listing)
    paths = [path for kind, path in rows if machine in kind]
    if not paths:
        return None
    with open(paths[0], "rb") as stream:
        names = re.findall(rb"GLIBCXX_(\d+\.\d+(?:\.\d+)?)\0", stream.read())
    newest = max(tuple(int(part) for part in name.split(b".")) for name in names)
    return ".".join(str(part) for part in newest)


def read_proxies() -> object:
    """Proxy variables of this session; what stands before an @ is left out: it may be secret."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    both = [(name, os.environ.get(name) or os.environ.get(name.upper())) for name in names]
    return {name: re.sub(r"[^/@\s]+@", "***@", text) for name, text in both if text} or None


# CPU and memory.


def read_cpu_flags() -> list[str]:
    """Features of the CPU, as the kernel names them."""
    text = read_file("/proc/cpuinfo")
    return sorted((first_match(r"^(?:flags|Features)\s*:(.*)$", text) or "").split())


def read_cpu_level() -> object:
    """x86-64 level of this CPU, as GCC's -march names it; absent on other machines."""
    if platform.machine() != "x86_64":
        return None
    flags, level = set(read_cpu_flags()), "x86-64"
    for name, wanted in X86_LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        level = name
    return level


def read_cgroup(controller: str, names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """(folder, text) of a cgroup file, from our own cgroup up to the root: v2's name, or v1's.

    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    for line in (read_file("/proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, name = "/sys/fs/cgroup", names[0]
        elif controller in controllers.split(","):
            root, name = "/sys/fs/cgroup/" + controllers, names[1]
        else:
            continue
        folder = os.path.normpath(root + "/" + path)
        while folder.startswith(root):
            text = read_file(os.path.join(folder, name))
            if text:
                yield folder, text
            folder = os.path.dirname(folder)


def read_cpu_quota() -> object:
    """Cores' worth of time that the tightest cgroup allows."""
    quotas = []
    for folder, text in read_cgroup("cpu", ("cpu.max", "cpu.cfs_quota_us")):
        quota, _, period = text.partition(" ")
        if quota not in ("max", "-1"):
            period = period or read_file(folder + "/cpu.cfs_period_us") or "100000"
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def read_memory() -> dict[str, int]:
    """Total and available memory and swap, bytes."""
    pairs = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_file("/proc/meminfo") or "", re.M))
    keys = {"total": "MemTotal", "available": "MemAvailable"}
    keys.update(swap_total="SwapTotal", swap_free="SwapFree")
    return {key: int(pairs[name]) * 1024 for key, name in keys.items()}


def read_memory_limit() -> object:
    """The cgroup that leaves the least, of those with a limit below what the machine has.

    ``used``: bytes that stay. A cgroup's own count holds the page cache, too, which grows until the
    limit and is given up for whoever asks (as in the kernel's MemAvailable):
    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    total, limits = read_memory()["total"], []
    for folder, text in read_cgroup("memory", ("memory.max", "memory.limit_in_bytes")):
        if text != "max" and int(text) < total:
            limits.append((int(text), read_memory_used(folder)))
    if not limits:
        return None
    limit, used = min(limits, key=lambda pair: pair[0] - pair[1])
    return {"limit": limit, "used": used}


def read_memory_used(folder: str) -> int:
    """Bytes of a cgroup that it can't give up: neither files' pages nor slabs for the taking."""
    names = ("memory.current", "memory.usage_in_bytes")
    used = next((text for text in (read_file(os.path.join(folder, n)) for n in names) if text), "0")
    # Version 1 tells its children's apart: total_ is with them.
    kinds = r"^(?:total_)?(inactive_file|active_file|slab_reclaimable) (\d+)"
    counts = re.findall(kinds, read_file(os.path.join(folder, "memory.stat")) or "", re.M)
    given_up = {name: int(count) for name, count in counts}  # the total_ comes last
    return max(0, int(used) - sum(given_up.values()))


def read_numa() -> object:
    """NUMA nodes, with their CPUs and memory."""
    nodes = []
    for folder in glob.glob("/sys/devices/system/node/node[0-9]*"):
        memory = first_match(r"MemTotal:\s+(\d+)", read_file(folder + "/meminfo"))
        number = int(folder.rpartition("node")[2])
        cpus = read_file(folder + "/cpulist")
        nodes.append({"node": number, "cpus": cpus, "memory": int(memory or 0) * 1024})
    return sorted(nodes, key=lambda row: int(row["node"] or 0)) or None


def read_limits() -> object:
    """Soft and hard limits of this session, as a run started from it gets them."""
    limits = {}
    for name in ("nofile", "memlock", "nproc"):
        pair = resource.getrlimit(getattr(resource, "RLIMIT_" + name.upper()))
        soft, hard = (None if limit == resource.RLIM_INFINITY else limit for limit in pair)
        limits[name] = {"soft": soft, "hard": hard}
    return limits
