"""What this host is: one JSON object of facts, in one round trip.

    probe.py [PEER_ADDRESS…]

Every fact is {"value": …}, {"absent": true} (looked for, not there) or {"unknown": "reason"}
(could not be read). Writes nothing. Standard library only, Python 3.8 or later, no sudo.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from typing import Callable

# The four x86-64 levels as /proc/cpuinfo names their flags, each on top of the one before:
# https://gitlab.com/x86-psABIs/x86-64-ABI (table "Micro-Architecture Levels")
X86_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
PYTHONS = ["python3", "python"] + ["python3.%d" % minor for minor in range(8, 16)]
ASK_PYTHON = (
    "import sys,importlib.util as u;print(sys.executable,'%d.%d.%d'%sys.version_info[:3],"
    "int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))),sys.implementation.name,sep='|')"
)
GPU_FIELDS = "index,name,compute_cap,memory.total,memory.used,uuid,driver_version"


def value(found: object) -> dict[str, object]:
    """A fact that was read; None and "" mean absent."""
    return {"absent": True} if found is None or found == "" else {"value": found}


def output(argv: list[str], timeout: float = 20) -> str:
    """Stdout of a command; RuntimeError with the reason if it failed."""
    env = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, env=env
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError("%s: no answer in %d s" % (argv[0], timeout))
    out = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        lines = (done.stderr.decode("utf-8", "replace").strip() or out or "no output").splitlines()
        raise RuntimeError("%s: exit %d: %s" % (argv[0], done.returncode, lines[-1][:200]))
    return out


def read_file(path: str) -> str | None:
    """Text of a file, stripped; None if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_os() -> object:
    """Distribution name, e.g. "Debian GNU/Linux 12 (bookworm)"."""
    text = read_file("/etc/os-release") or ""
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return match.group(1) if match else None


def read_glibc() -> object:
    """Glibc's version; absent on musl."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return version if name == "glibc" else None


def read_glibcxx() -> object:
    """Newest GLIBCXX symbol version of the libstdc++ that the loader would take."""
    listing = output([shutil.which("ldconfig") or "/sbin/ldconfig", "-p"])
    paths = re.findall(r"libstdc\+\+\.so\.6 \(.*x86-64.*\) => (\S+)", listing) or re.findall(
        r"libstdc\+\+\.so\.6 .*=> (\S+)", listing
    )
    if not paths:
        return None
    with open(paths[0], "rb") as stream:
        names = re.findall(rb"GLIBCXX_(\d+\.\d+(?:\.\d+)?)\0", stream.read())
    newest = max(tuple(int(part) for part in name.split(b".")) for name in names)
    return ".".join(str(part) for part in newest)


def read_cpu_level() -> object:
    """x86-64 level of this CPU, as GCC's -march names it; absent on other machines."""
    if platform.machine() != "x86_64":
        return None
    flags = set(re.findall(r"^flags\s*:(.*)$", read_file("/proc/cpuinfo") or "", re.M)[0].split())
    level = "x86-64"
    for name, wanted in X86_LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        level = name
    return level


def read_cpu_model() -> object:
    """The CPU's own name."""
    match = re.search(r"^model name\s*:\s*(.*)$", read_file("/proc/cpuinfo") or "", re.MULTILINE)
    return match.group(1) if match else None


def read_memory() -> object:
    """Total and available memory, bytes."""
    text = read_file("/proc/meminfo") or ""
    pairs = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return {
        "total": int(pairs["MemTotal"]) * 1024,
        "available": int(pairs["MemAvailable"]) * 1024,
    }


def read_pythons() -> object:
    """Every interpreter on PATH that runs: path, version, and whether it can make a venv."""
    started = []
    for name in PYTHONS:
        path = shutil.which(name)
        if path:
            started.append(
                subprocess.Popen(
                    [path, "-I", "-c", ASK_PYTHON],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    stdin=subprocess.DEVNULL,
                )
            )
    found: dict[str, dict[str, object]] = {}
    for process in started:
        try:
            out = process.communicate(timeout=20)[0].decode("utf-8", "replace").strip()
        except subprocess.TimeoutExpired:
            process.kill()
            continue
        if process.returncode != 0 or out.count("|") != 3:
            continue
        path, version, venv, implementation = out.split("|")
        if implementation == "cpython":
            found.setdefault(path, {"path": path, "version": version, "venv": venv == "1"})
    return list(found.values())


def read_gpus() -> object:
    """GPUs as nvidia-smi lists them; memory in MiB. Absent without an NVIDIA driver."""
    smi = shutil.which("nvidia-smi")
    if not smi:
        return None
    if not os.path.exists("/proc/driver/nvidia/version") and not os.path.exists("/dev/nvidiactl"):
        return None
    out = output([smi, "--query-gpu=" + GPU_FIELDS, "--format=csv,noheader,nounits"])
    names = [field.replace(".", "_") for field in GPU_FIELDS.split(",")]
    rows = [[cell.strip() for cell in line.split(",")] for line in out.splitlines() if line]
    if any(len(row) != len(names) for row in rows):
        raise RuntimeError("nvidia-smi: unexpected answer %r" % out[:200])
    return [dict(zip(names, row)) for row in rows]


def read_driver() -> object:
    """Version of the loaded NVIDIA kernel module, e.g. "580.65.06"."""
    text = read_file("/proc/driver/nvidia/version")
    if text is None:
        return None
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    if not match:
        raise RuntimeError("/proc/driver/nvidia/version: %r" % text[:100])
    return match.group(1)


def read_toolkit() -> object:
    """Version of the CUDA toolkit's nvcc on PATH or below CUDA_HOME."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))
    if not nvcc:
        return None
    match = re.search(r"release (\d+\.\d+)", output([nvcc, "--version"]))
    return match.group(1) if match else None


def read_disk() -> object:
    """Free bytes where ~/.zerofleet is or would be."""
    return {"free": shutil.disk_usage(os.path.expanduser("~")).free}


def read_environment() -> object:
    """The environment that ~/.zerofleet/current names: its record, absent if there is none."""
    current = os.path.expanduser("~/.zerofleet/current")
    text = read_file(os.path.join(current, "complete.json"))
    if text is None:
        return None
    record = json.loads(text)
    record["path"] = os.path.realpath(current)
    return record


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


def read_interfaces() -> dict[str, str]:
    """IPv4 and IPv6 address → interface, as ``ip`` lists them."""
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if not ip:
        raise RuntimeError("no ip command (package iproute2)")
    names = {}
    for line in output([ip, "-o", "addr", "show"]).splitlines():
        match = re.match(r"\d+:\s+(\S+)\s+inet6?\s+([0-9a-fA-F.:]+)", line)
        if match:
            names[match.group(2)] = match.group(1).split("@")[0]
    return names


def read_routes(peers: list[str]) -> object:
    """For each peer: what its name means here, the address this host would use, and over which NIC.

    A UDP socket that is connected, and never sent on, asks the kernel's routing table.
    """
    try:
        interfaces, reason = read_interfaces(), ""
    except RuntimeError as error:
        interfaces, reason = {}, str(error)
    routes: dict[str, dict[str, object]] = {}
    for peer in peers:
        try:
            info = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(info[0], socket.SOCK_DGRAM) as udp:
                udp.connect(info[4])
                source = str(udp.getsockname()[0])
        except OSError as error:
            routes[peer] = {"error": error.strerror or str(error)}
            continue
        nic = interfaces.get(source) or ("lo" if source.startswith("127.") else None)
        routes[peer] = {"address": info[4][0], "source": source, "interface": nic}
        if nic is None and reason:
            routes[peer]["interface_unknown"] = reason
    return routes


def facts(peers: list[str]) -> dict[str, dict[str, object]]:
    """All facts; one that can't be read says why and hides none of the others."""
    readers: dict[str, Callable[[], object]] = {
        "hostname": socket.gethostname,
        "user": lambda: pwd.getpwuid(os.getuid()).pw_name,
        "home": lambda: os.path.expanduser("~"),
        "os": read_os,
        "kernel": platform.release,
        "machine": platform.machine,
        "machine_id": lambda: read_file("/etc/machine-id"),
        "boot_id": lambda: read_file("/proc/sys/kernel/random/boot_id"),
        "clock": time.time,
        "glibc": read_glibc,
        "glibcxx": read_glibcxx,
        "cpu.model": read_cpu_model,
        "cpu.level": read_cpu_level,
        "cpu.cores": lambda: len(os.sched_getaffinity(0)),
        "memory": read_memory,
        "disk": read_disk,
        "pythons": read_pythons,
        "gpu.driver": read_driver,
        "gpus": read_gpus,
        "toolkit": read_toolkit,
        "environment": read_environment,
        "environments": read_environments,
        "store": read_store,
        "routes": lambda: read_routes(peers),
    }
    found = {}
    for name, reader in readers.items():
        try:
            found[name] = value(reader())
        except Exception as error:  # noqa: BLE001 - one fact may fail, the others must arrive
            found[name] = {"unknown": "%s: %s" % (type(error).__name__, error)}
    return found


if __name__ == "__main__":
    print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(facts(sys.argv[1:])))
