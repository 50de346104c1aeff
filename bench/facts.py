"""Asking 16 hosts what they are: our facts and parity against what else is used for that.

    python bench/facts.py                     five rounds, every way once a round
    python bench/facts.py --rounds 2 --hosts 8

One sshd of this user's on 127.0.0.1 listens on as many ports as there are hosts (16 at most:
OpenSSH's own limit of listen sockets), so hosts and controller share this machine's cores, for all
ways alike. The peers get an environment of their own in --folder (pip, pinned). Every figure is
the whole command, its own start included; every way talks to all hosts at once.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("ansible-core==2.19.14", "pyinfra==3.10.0")
FIRST_PORT = 29640
#: What pyinfra is asked for: what of our facts it has, with as few SSH commands as it can.
PYINFRA_FACTS = (
    "server.LinuxDistribution",
    "server.Kernel",
    "server.KernelVersion",
    "server.Arch",
    "server.Hostname",
    "server.Mounts",
    "server.Date",
    "hardware.Cpus",
    "hardware.Memory",
    "hardware.NetworkDevices",
    "hardware.BlockDevices",
)

SSHD = """\
{listen}
HostKey {folder}/host
PidFile none
UsePAM no
AuthorizedKeysFile {folder}/id.pub
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
Subsystem sftp internal-sftp
"""
# A home of its own makes each port a host of its own: parity refuses two names of one.
MATCH = """\
Match LocalPort {port}
    SetEnv PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME={folder}/{name} SHLVL=5
"""
SSH = """\
Host {name}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/id
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
"""


def write_folder(folder: Path, hosts: int) -> None:
    """Keys, and the same hosts described to sshd, ssh, Ansible, pyinfra and ZeroFleet."""
    for key in ("host", "id"):
        if not (folder / key).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
            )
    ports = {f"node{n}": FIRST_PORT + n - 1 for n in range(1, hosts + 1)}
    for name in ("home", *ports):
        (folder / name).mkdir(exist_ok=True)
    user = getpass.getuser()
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    pyinfra = [
        (
            name,
            {
                "ssh_hostname": "127.0.0.1",
                "ssh_port": port,
                "ssh_user": user,
                "ssh_key": f"{folder}/id",
                "ssh_known_hosts_file": f"{folder}/known_hosts",
                "ssh_config_file": f"{folder}/ssh_config",
            },
        )
        for name, port in ports.items()
    ]
    files = {
        "sshd_config": SSHD.format(
            listen="\n".join(f"ListenAddress 127.0.0.1:{port}" for port in ports.values()),
            folder=folder,
        )
        + "".join(MATCH.format(port=p, folder=folder, name=name) for name, p in ports.items()),
        "ssh_config": "".join(
            SSH.format(name=name, port=port, user=user, folder=folder)
            for name, port in ports.items()
        ),
        "known_hosts": "".join(f"[127.0.0.1]:{port} {public}\n" for port in ports.values()),
        "hosts.txt": "".join(f"{name}\n" for name in ports),
        "inventory.py": f"hosts = {pyinfra!r}\n",
        "ansible.cfg": f"[ssh_connection]\nssh_args = -F {folder}/ssh_config\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """The sshd, until the end of the block."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if sshd is None:
        raise SystemExit("bench/facts.py: no sshd (package openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    argv = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


def peers(folder: Path) -> Path:
    """The peers' programs: an environment made once a folder."""
    binaries = folder / "peers" / "bin"
    if not (binaries / "pyinfra").exists():
        print("installing", *PEERS, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(binaries.parent)], check=True)
        subprocess.run([str(binaries / "pip"), "install", "-q", *PEERS], check=True)
    return binaries


def ways(folder: Path, binaries: Path) -> Mapping[str, Sequence[str]]:
    """Name → command; each asks all hosts, side by side."""
    hosts = (folder / "hosts.txt").read_text().split()
    config = ["-F", str(folder / "ssh_config")]
    warm = [*config, "-o", "ControlMaster=auto", "-o", "ControlPersist=600"]
    warm += ["-o", f"ControlPath={folder}/%n.socket"]
    one = "ssh {} {{}} true"
    each = ["xargs", "-a", str(folder / "hosts.txt"), "-P", str(len(hosts)), "-I{}", "sh", "-c"]
    ours = [sys.executable, "-P", "-m", "invoke", "--search-root", str(ROOT)]
    here = ["--hosts", str(folder / "hosts.txt"), "--ssh-config", str(folder / "ssh_config")]
    ansible = [str(binaries / "ansible"), "all", "-i", f"{','.join(hosts)},", "-f", str(len(hosts))]
    facts = [str(binaries / "pyinfra"), "-y", str(folder / "inventory.py"), "fact", *PYINFRA_FACTS]
    return {
        "ssh true, new connections": [*each, one.format(shlex.join(config))],
        "ssh true, kept connections": [*each, one.format(shlex.join(warm))],
        "ansible -m ping": [*ansible, "-m", "ping"],
        "ansible -m setup": [*ansible, "-m", "setup"],
        "pyinfra, one fact": [*facts[:4], PYINFRA_FACTS[0]],
        f"pyinfra, {len(PYINFRA_FACTS)} facts": facts,
        "invoke hosts, all facts": [*ours, "hosts", *here],
        "invoke parity, all facts": [*ours, "parity", *here, "--wheels", str(folder / "none")],
    }


def measure(argv: Sequence[str], folder: Path) -> float:
    """Wall seconds of a command that has to succeed."""
    environ = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    environ |= {"HOME": str(folder / "home"), "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
    began = time.perf_counter()
    done = subprocess.run(
        argv, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(argv)[:200]}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=16, choices=range(1, 17), metavar="1..16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="kept between runs (default: a new one)")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="bench-facts-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, options.hosts)
    commands = ways(folder, peers(folder))
    times: dict[str, list[float]] = {name: [] for name in commands}
    with server(folder):
        for argv in commands.values():
            measure(argv, folder)  # byte code, caches, kept connections: not in the figures
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for name, argv in commands.items():
                times[name].append(measure(argv, folder))
        for host in (folder / "hosts.txt").read_text().split():
            close = ["ssh", "-F", str(folder / "ssh_config"), "-O", "exit"]
            close += ["-o", f"ControlPath={folder}/%n.socket", host]
            subprocess.run(close, capture_output=True, check=False)
    middle = {name: statistics.median(each) for name, each in times.items()}
    base = middle["invoke hosts, all facts"]
    print(f"{options.hosts} hosts, median of {options.rounds} rounds")
    for name, seconds in middle.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        print(f"{name:28} {seconds:6.2f} s  ({spread})  {seconds / base:5.2f} x")
    (folder / "facts.json").write_text(json.dumps({"hosts": options.hosts, "seconds": times}))


if __name__ == "__main__":
    main()
