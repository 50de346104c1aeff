"""What a host's GPUs are, by the PCI bus, the kernel and nvidia-smi.

nvidia-smi takes a second or more where persistence mode is off: it is called as little as possible,
and not at all where there is none. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
from typing import Any, Callable, Dict

from provision.onhost.probe_read import (
    COMMAND,
    Failed,
    first_match,
    output,
    read_file,
    reason,
    side_by_side,
)

# Key → field of `nvidia-smi --help-query-gpu`. Drivers before 495 don't know compute_cap.
GPU_FIELDS = {
    "index": "index",
    "name": "name",
    "compute_cap": "compute_cap",
    "memory_total": "memory.total",
    "memory_used": "memory.used",
    "uuid": "uuid",
    "driver_version": "driver_version",
    "pci": "pci.bus_id",
    "mig": "mig.mode.current",
    "persistence": "persistence_mode",
    "ecc": "ecc.mode.current",
    "ecc_errors": "ecc.errors.uncorrected.volatile.total",
    "pcie_gen": "pcie.link.gen.current",
    "pcie_gen_max": "pcie.link.gen.max",
    "pcie_width": "pcie.link.width.current",
    "pcie_width_max": "pcie.link.width.max",
    "utilization": "utilization.gpu",
}
#: Facts that nvidia-smi is asked for, and all facts about GPUs.
ASKED = ("gpus", "gpu.processes", "gpu.mig", "gpu.nvlink", "gpu.topology")
FACTS = (*ASKED, "gpu.unread", "gpu.xid", "gpu.pci", "gpu.driver")
Calls = Dict[str, Callable[[], Any]]
NO_SUCH_THING = ("", "N/A", "[N/A]", "[Not Supported]", "Not Supported")


def read_pci_gpus() -> list[dict[str, str]]:
    """NVIDIA display and 3D controllers on the PCI bus, driver or not."""
    found = []
    for folder in sorted(glob.glob("/sys/bus/pci/devices/*")):
        if read_file(folder + "/vendor") != "0x10de":
            continue
        if (read_file(folder + "/class") or "").startswith(("0x0300", "0x0302")):
            device = (read_file(folder + "/device") or "")[2:]
            found.append({"slot": os.path.basename(folder), "id": "10de:" + device})
    return found


def read_module() -> str | None:
    """Version of the loaded NVIDIA kernel module; None if none is loaded."""
    text = read_file("/proc/driver/nvidia/version")
    if text is None:
        return None
    version = first_match(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text + " ")
    if version is None:
        raise Failed("/proc/driver/nvidia/version: %r" % text[:100])
    return version


def query_gpus(smi: str) -> tuple[list[dict[str, str | None]], dict[str, str]]:
    """nvidia-smi's rows, and why a key could not be read: asks less of a driver that knows less."""
    keys = dict(GPU_FIELDS)
    unread: dict[str, str] = {}
    while True:
        try:
            query = "--query-gpu=" + ",".join(keys.values())
            out = output([smi, query, "--format=csv,noheader,nounits"])
            break
        except Failed as error:
            bad = first_match(r'Field "([^"]+)" is not a valid field', error.said)
            if bad not in keys.values():
                raise
            key = next(key for key, field in keys.items() if field == bad)
            del keys[key]
            unread[key] = 'nvidia-smi: Field "%s" is not a valid field to query' % bad
    rows: list[dict[str, str | None]] = []
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(keys):
            raise Failed("nvidia-smi: unexpected answer %r" % line[:200])
        row: dict[str, str | None] = dict.fromkeys(GPU_FIELDS)
        for key, cell in zip(keys, cells):
            if cell.startswith("[") and cell not in NO_SUCH_THING:  # [Unknown Error], [GPU is lost]
                unread[key] = "nvidia-smi: GPU %s: %s" % (cells[0], cell.strip("[]"))
            elif cell not in NO_SUCH_THING:
                row[key] = cell
        rows.append(row)
    return rows, unread


def read_processes(smi: str) -> object:
    """Processes that compute on GPUs, as far as nvidia-smi names them here."""
    fields = "gpu_uuid,pid,used_memory,process_name"
    rows = []
    out = output([smi, "--query-compute-apps=" + fields, "--format=csv,noheader,nounits"])
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.split(",", 3)]
        if len(cells) != 4 or not cells[1].isdigit():
            raise Failed("nvidia-smi: unexpected answer %r" % line[:200])
        memory = cells[2] if cells[2].isdigit() else None
        row = {"gpu": cells[0], "pid": int(cells[1]), "name": cells[3], "memory": memory}
        try:
            row["user"] = pwd.getpwuid(os.stat("/proc/" + cells[1]).st_uid).pw_name
        except (OSError, KeyError):  # in another process namespace, or ended
            row["user"] = None
        rows.append(row)
    return rows


def read_mig(smi: str) -> object:
    """MIG devices, as `nvidia-smi -L` lists them below their GPU."""
    gpu, found = "", []
    for line in output([smi, "-L"]).splitlines():
        gpu = first_match(r"^GPU (\d+):", line) or gpu
        match = re.match(r"\s*MIG\s+(\S+)\s+Device\s+\d+:\s*\(UUID:\s*(\S+?)\)", line)
        if match:
            found.append({"gpu": gpu, "profile": match.group(1), "uuid": match.group(2)})
    return found or None


def read_nvlink(smi: str) -> object:
    """Each GPU's NVLinks with their speed, or <inactive>."""
    found: dict[str, list[str]] = {}
    gpu = ""
    for line in output([smi, "nvlink", "-s"]).splitlines():
        gpu = first_match(r"^GPU (\d+):", line) or gpu
        link = first_match(r"^\s*Link \d+:\s*(.+)$", line)
        if link:
            found.setdefault(gpu, []).append(link.strip())
    return found or None


def read_topology(smi: str) -> object:
    """How GPUs and NICs of this host reach one another: the matrix of `nvidia-smi topo -m`."""
    out = re.sub(r"\x1b\[[0-9;]*m", "", output([smi, "topo", "-m"]))
    lines = out.splitlines()
    head = next((line for line in lines if re.match(r"\s*GPU\d", line)), "")
    names = re.findall(r"\b(?:GPU\d+|NIC\d+|mlx\d+_\d+)\b", head)
    found = {}
    for line in lines:
        cells = line.split()
        if cells and cells[0] in names and line != head:
            found[cells[0]] = {n: c for n, c in zip(names, cells[1:]) if n != cells[0]}
    return found or None


def read_kernel_log() -> str:
    """The kernel's messages of this boot, where we may read them."""
    try:
        handle = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        journal = shutil.which("journalctl")
        if not journal:
            raise Failed(reason(error)) from None
        text = output([journal, "-k", "-b", "-q", "--no-pager", "-o", "cat"])
        if not text:
            raise Failed("the kernel's log is for root and group adm only") from None
        return text
    records = []
    try:
        while True:
            try:
                records.append(os.read(handle, 8192).decode("utf-8", "replace"))
            except BrokenPipeError:
                continue  # the ring moved on below us
            except BlockingIOError:
                return "".join(records)
    finally:
        os.close(handle)


def read_xids() -> object:
    """Errors of GPUs in the kernel's log: https://docs.nvidia.com/deploy/xid-errors/."""
    pattern = r"NVRM: Xid \((?:PCI:)?([^)]+)\): (\d+),?\s*(.*)"
    found = re.findall(pattern, read_kernel_log())[-50:]
    return [{"pci": pci, "xid": int(xid), "text": text} for pci, xid, text in found] or None


def read_gpu_facts() -> dict[str, Any]:
    """Every fact about GPUs, each a value (None: absent) or an exception."""
    pci, driver = read_pci_gpus(), read_module()
    found: dict[str, Any] = dict.fromkeys(FACTS)
    found.update({"gpu.pci": pci or None, "gpu.driver": driver})
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    xid: Calls = {"gpu.xid": read_xids}
    if not smi:
        if driver:
            found["gpus"] = Failed("driver %s is loaded, and no nvidia-smi on PATH" % driver)
        return found
    try:
        rows, unread = query_gpus(smi)
    except Failed as error:
        if nothing_there(error, bool(pci or driver)):
            return found
        return {**found, **dict.fromkeys(ASKED, error), **side_by_side(xid, COMMAND)}
    found["gpus"], found["gpu.unread"] = rows, unread or None
    found["gpu.driver"] = driver or next((row["driver_version"] for row in rows), None)
    found.update(side_by_side({**xid, **more_calls(smi, rows)}, COMMAND))
    return found


def nothing_there(error: Failed, seen: bool) -> bool:
    """Whether a failed nvidia-smi only means a host without GPUs: its image suits both kinds.

    A GPU or a driver that was ``seen`` makes the same failure a fault.
    """
    no_driver = "communicate with the NVIDIA driver" in error.said
    return (no_driver or "No devices were found" in error.said) and not seen


def more_calls(smi: str, rows: list[dict[str, str | None]]) -> Calls:
    """What else is worth asking of these GPUs."""
    calls: Calls = {"gpu.processes": lambda: read_processes(smi)}
    if any(row["mig"] == "Enabled" for row in rows):
        calls["gpu.mig"] = lambda: read_mig(smi)
    if len(rows) > 1:
        calls["gpu.nvlink"] = lambda: read_nvlink(smi)
        calls["gpu.topology"] = lambda: read_topology(smi)
    return calls


def read_toolkits() -> list[dict[str, str]]:
    """CUDA toolkits: that of the nvcc on PATH first, then CUDA_HOME's and those in /usr/local."""
    nvcc = shutil.which("nvcc")
    homes = [os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))] if nvcc else []
    homes += [os.environ.get("CUDA_HOME") or "/usr/local/cuda", "/opt/cuda"]
    homes += sorted(glob.glob("/usr/local/cuda-*"), reverse=True)
    found: dict[str, str] = {}
    for home in homes:
        path = os.path.join(os.path.realpath(home), "bin", "nvcc")
        if os.access(path, os.X_OK) and path not in found:
            version = first_match(r"release (\d+\.\d+)", output([path, "--version"]))
            found[path] = version or "unknown"
    return [{"path": path, "version": version} for path, version in found.items()]
