"""What a host is, network and GPUs aside: system, CPU, memory, disks, Pythons, what was deployed.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import resource
import shutil
from functools import partial
from typing import Any, Iterator

from provision.onhost.probe_read import (
    COMMAND,
    first_match,
    output,
    read_file,
    reason,
    side_by_side,
)

#: Looked at, never written to.
TMP, SHM = "/tmp", "/dev/shm"  # noqa: S108
#: Seconds for one path: a dead NFS never answers.
PATH_SECONDS = 12
# The four x86-64 levels as /proc/cpuinfo names their flags, each on top of the one before:
# https://gitlab.com/x86-psABIs/x86-64-ABI (table "Micro-Architecture Levels")
X86_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
#: File systems of several machines whose source in /proc/self/mounts may not look like it.
NETWORK_TYPES = ("beegfs", "beegfs_nodev", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "panfs",
                 "smb3", "wekafs")  # fmt: skip
PYTHONS = ["python3", "python"] + ["python3.%d" % minor for minor in range(8, 16)]
ASK_PYTHON = (
    "import sys,importlib.util as u;print(sys.executable,'%d.%d.%d'%sys.version_info[:3],"
    "int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))),sys.implementation.name,sep='|')"
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


def read_home_id() -> object:
    """Device and inode of the home folder."""
    found = os.stat(os.path.expanduser("~"))
    return "%d:%d" % (found.st_dev, found.st_ino)


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
    """The tightest cgroup's limit and use, where it is below what the machine has."""
    total, limits = read_memory()["total"], []
    for folder, text in read_cgroup("memory", ("memory.max", "memory.limit_in_bytes")):
        if text != "max" and int(text) < total:
            limits.append((int(text), folder))
    if not limits:
        return None
    limit, folder = min(limits)
    names = ("memory.current", "memory.usage_in_bytes")
    used = next((text for text in (read_file(os.path.join(folder, n)) for n in names) if text), "0")
    return {"limit": limit, "used": int(used)}


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


# Disks.


def read_mount(path: str) -> tuple[str, str, str]:
    """Mount point, type and source of the file system of an existing path: proc_mounts(5)."""
    best = ("/", "", "")
    for line in (read_file("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m.group(1), 8)), fields[1])
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, fields[2], fields[0])
    return best


def nearest_folder(path: str) -> str:
    """Where a path is, or would be: the real path of its nearest existing folder."""
    on = os.path.realpath(os.path.expanduser(path))
    while not os.path.isdir(on):
        on = os.path.dirname(on)
    return on


def read_home_place() -> object:
    """What ~/.zerofleet lies in, equal on all hosts that see one and the same folder.

    On a network file system that is its source and the folder's inode; on any other, the machine's
    own, the device's number in place of the source.
    """
    path = os.path.realpath(os.path.expanduser("~/.zerofleet"))
    # The folder above it: it is there before the first deploy, too.
    on = path if os.path.ismount(path) else nearest_folder(os.path.dirname(path))
    _, kind, source = read_mount(on)
    found = os.stat(on)
    if kind not in NETWORK_TYPES and ":" not in source and not source.startswith("//"):
        source = "%s %d" % (read_file("/proc/sys/kernel/random/boot_id"), found.st_dev)
    return "%s %d %s" % (source, found.st_ino, os.path.relpath(path, on))


#: Facts that tell homes apart.
HOMES = {"home.id": read_home_id, "home.place": read_home_place}


def read_disk(path: str) -> dict[str, object]:
    """The file system that a path is on, or would be: looked up at its nearest existing folder."""
    on = nearest_folder(path)
    found = os.statvfs(on)
    mount, kind, _ = read_mount(on)
    return {
        "on": on,
        "free": found.f_bavail * found.f_frsize,
        "total": found.f_blocks * found.f_frsize,
        "inodes_free": found.f_favail,
        "inodes": found.f_files,
        "writable": os.access(on, os.W_OK | os.X_OK),
        "read_only": bool(found.f_flag & os.ST_RDONLY),
        "noexec": bool(found.f_flag & os.ST_NOEXEC),
        "type": kind,
        "mount": mount,
        "device": os.stat(on).st_dev,
    }


def read_disks(paths: list[str]) -> object:
    """Home, ~/.zerofleet, the folder for temporary files, and what was asked for."""
    asked = dict.fromkeys(["~", "~/.zerofleet", os.environ.get("TMPDIR") or TMP, *paths])
    found = side_by_side({p: partial(read_disk, p) for p in asked}, PATH_SECONDS)
    return {
        path: {"error": reason(disk)} if isinstance(disk, Exception) else disk
        for path, disk in found.items()
    }


def read_shm() -> object:
    """What is shared as memory: DataLoader workers and gloo exchange tensors through it."""
    if not os.path.isdir(SHM):
        return None
    found = os.statvfs(SHM)
    size = found.f_frsize
    return {"total": found.f_blocks * size, "free": found.f_bavail * size}


# Python, and what was deployed.


def read_pythons() -> object:
    """Every CPython on PATH that runs, and the one below what is deployed: path, version, and
    whether it can make a venv.
    """
    names: dict[str, str] = {}
    base = [(read_environment() or {}).get("base")]  # on no PATH where it is a venv's or conda's
    for name in [*PYTHONS, *filter(None, base)]:
        path = shutil.which(name)
        if path:
            # Links to one file are one interpreter, except where a pyvenv.cfg stands beside one.
            folder = os.path.dirname(path)
            own = os.path.exists(os.path.join(os.path.dirname(folder), "pyvenv.cfg"))
            names.setdefault(path if own else os.path.realpath(path), path)
    ask = ["-I", "-S", "-c", ASK_PYTHON]
    asked = {path: partial(output, [path, *ask]) for path in names.values()}
    found: dict[str, dict[str, object]] = {}
    for out in side_by_side(asked, COMMAND).values():
        if isinstance(out, Exception) or out.count("|") != 3:
            continue  # a shim of a version that is not there, a Windows stub
        path, version, venv, implementation = out.split("|")
        if implementation == "cpython":
            found.setdefault(path, {"path": path, "version": version, "venv": venv == "1"})
    return list(found.values())


def read_environment() -> Any:
    """The environment that ~/.zerofleet/current names: its record, absent if there is none."""
    current = os.path.expanduser("~/.zerofleet/current")
    text = read_file(os.path.join(current, "complete.json"))
    if text is None:
        return None
    record = json.loads(text)
    record["path"] = os.path.realpath(current)
    return record


def read_environment_now() -> object:
    """What that environment's folder holds now, whatever its record says."""
    pattern = os.path.expanduser("~/.zerofleet/current/lib/python3*/site-packages")
    sites = glob.glob(pattern)
    if not sites:
        return None
    sites += (read_environment() or {}).get("sites") or []  # those of the user's own Python

    def version(name: str) -> str | None:
        for site in map(glob.escape, sites):
            found = glob.glob(os.path.join(site, name + "-[0-9]*.dist-info"))
            if found:
                return os.path.basename(found[0])[: -len(".dist-info")].split("-")[1]
        return None

    files = (read_file(os.path.join(site, "torch", "version.py")) for site in sites)
    torch = next(filter(None, files), None)
    return {
        "torch": first_match(r"^__version__ *= *['\"]([^'\"]+)", torch),
        "torch_cuda": first_match(r"^cuda\b[^=]*= *['\"]([^'\"]+)", torch),
        "nccl": version("nvidia_nccl_cu*[0-9]"),
        "deepspeed": version("deepspeed"),
    }


def read_environments() -> object:
    """Lock names of the complete environments on this host."""
    pattern = os.path.expanduser("~/.zerofleet/envs/*/complete.json")
    return sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(pattern))


def read_store() -> object:
    """What ~/.zerofleet/store holds: sha256/name."""
    root = os.path.expanduser("~/.zerofleet/store")
    return sorted(
        os.path.relpath(path, root)
        for path in glob.glob(os.path.join(root, "*", "*"))
        if not path.endswith(".partial")
    )
