"""The heartbeat of many hosts, simulated: supervisors with sleeping ranks on loopback addresses.

    python bench/heartbeat.py [64 …]

For each number of hosts: start all supervisors, let them beat, kill one with its ranks (as a host
without power), and see when every other has ended its rank and written exit.json. Said are seconds,
datagrams and bytes a host and second, and the CPU time that a supervisor takes. Nothing else should
speak on this machine meanwhile. Linux: all of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PORT, BEATING = 29645, 10.0
RANK = "import time; time.sleep(600)"


def address(number: int) -> str:
    return f"127.7.{number // 250}.{number % 250 + 1}"


def plan(folder: Path, number: int, hosts: int) -> None:
    nodes = [
        {"node_rank": i, "host": f"host{i}", "address": address(i), "port": PORT}
        for i in range(hosts)
    ]
    peers = {"secret": "bench", "address": address(number), "port": PORT, "nodes": nodes}
    (folder / "code").mkdir(parents=True)
    value = {
        "run": "bench", "node_rank": number, "nproc_per_node": 1, "first_rank": number,
        "argv": [sys.executable, "-c", RANK], "environ": {}, "peers": peers,
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(value))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def traffic() -> tuple[int, int]:
    """(datagrams that this machine has sent, bytes that its loopback has), headers included."""
    names, values = [
        line.split()[1:]
        for line in Path("/proc/net/snmp").read_text().splitlines()
        if line.startswith("Udp:")
    ]
    devices = Path("/proc/net/dev").read_text().splitlines()
    (lo,) = [line.split() for line in devices if line.split()[0] == "lo:"]
    return int(dict(zip(names, values, strict=True))["OutDatagrams"]), int(lo[9])


def measure(hosts: int, root: Path) -> str:
    folders = [root / str(i) for i in range(hosts)]
    for number, folder in enumerate(folders):
        plan(folder, number, hosts)
    begun = time.monotonic()
    argv = [sys.executable, "-m", "provision.onhost.supervise", "start"]
    starts = [
        subprocess.Popen([*argv, str(f)], cwd=CHECKOUT, stdout=subprocess.DEVNULL) for f in folders
    ]
    assert all(start.wait() == 0 for start in starts)
    started = time.monotonic() - begun
    pids = [json.loads((f / "record.json").read_text())["supervisor"]["pid"] for f in folders]
    time.sleep(3)
    cpu, before, since = sum(map(cpu_seconds, pids)), traffic(), time.time()
    time.sleep(BEATING)
    took = (time.time() - since) * hosts
    cpu = (sum(map(cpu_seconds, pids)) - cpu) / took
    sent, size = ((now - then) / took for now, then in zip(traffic(), before, strict=True))
    os.kill(pids[hosts // 2], signal.SIGKILL)
    begun = time.monotonic()
    alive = [f for i, f in enumerate(folders) if i != hosts // 2]
    while not all((f / "exit.json").exists() for f in alive):
        assert time.monotonic() - begun < 60, "not all have stopped within a minute"
        time.sleep(0.05)
    stopped = time.monotonic() - begun
    blamed = set()
    for folder in alive:
        ended = json.loads((folder / "exit.json").read_text())
        blamed.add((ended["stopped_by"] or ended["first_failure"])["host"])
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    return (
        f"{hosts:4} hosts: started in {started:.1f} s; a host and second: {sent:.0f} datagrams, "
        f"{size / 1000:.1f} kB, {cpu:.2%} of a core; one killed: all stopped in {stopped:.1f} s, "
        f"named: {', '.join(sorted(blamed))} (killed: host{hosts // 2})"
    )


def main() -> None:
    for hosts in [int(word) for word in sys.argv[1:]] or [4, 16, 64]:
        with tempfile.TemporaryDirectory(prefix="heartbeat") as folder:
            print(measure(hosts, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
