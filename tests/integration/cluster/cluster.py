"""Several real hosts on one Linux machine, for tests: each with its own disk, network and sshd.

    python tests/integration/cluster/cluster.py up 4 --folder /tmp/c    node1 … node4
    … run  --folder /tmp/c -- ssh -F /tmp/c/ssh_config node1 id        from the controller's network
    … exec --folder /tmp/c node2 -- nft list ruleset                    on a host, without SSH
    … off | boot | reset | cut | mend --folder /tmp/c node2             power, disk, network
    … status | down --folder /tmp/c

A host is a set of kernel namespaces: its own overlay over the machine's ``/`` (what is installed
here is installed there; what it writes stays its own), home, ``/tmp``, ``/dev``, machine id, name,
network interface, PIDs. No route leads out. CPU, memory, clock and kernel are the machine's.

Everything belongs to one process, the keeper: PID 1 of a PID namespace, whose mount and network
namespaces hold the disks and the switch. When it ends, however that happens, the kernel takes
down every process, mount and interface. The keeper of a test ends with the test's process. So
nothing has a machine-wide name, any number of clusters live side by side, and nothing is left.

Needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN), openssh-server, iproute2, util-linux. Standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETWORK = "10.77.0"
CONTROLLER = f"{NETWORK}.254"
START_SECONDS = 120
#: Collects what is orphaned in its PID namespace; ends with its standard input, if it is given one.
KEEPER = (
    "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    "sys.stdin.read() if sys.argv[1] == 'held' else signal.pause()"
)


class ClusterError(Exception):
    """A cluster can't be made or found; one line."""


def missing() -> str:
    """What keeps a cluster from being made here; empty if nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    tools = ("ip", "nsenter", "unshare", "ssh-keygen", "sshd", "nft", "tc")
    absent = [tool for tool in tools if not shutil.which(tool, path=path)]
    return f"needs {', '.join(absent)}" if absent else ""


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its PID, who it is. 0: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def child_of(pid: int, generations: int, process: subprocess.Popen[str], log: Path) -> int:
    """The PID of an only child's only child (…), once it is there."""
    for _ in range(generations):
        deadline = time.monotonic() + START_SECONDS
        while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"{process.args}: {log.read_text()[-2000:]}")
            time.sleep(0.005)
        pid = int(found[0])
    return pid


@dataclass
class Node:
    """One host. ``pid`` is that of its PID 1 as the machine sees it; 0: it is off."""

    cluster: Cluster = field(repr=False)
    number: int
    pid: int = 0
    boot: int = 0
    touched: bool = False

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def disk(self) -> Path:
        """What outlives a boot, as the keeper sees it."""
        return self.cluster.folder / "disks" / self.name

    def path(self, path: str) -> Path:
        """A file of this host, for the test's own reading and writing; ``~/`` is its home."""
        self.touched = True
        absolute = path.replace("~", self.cluster.home, 1) if path.startswith("~/") else path
        return Path(f"/proc/{self.pid}/root{absolute}")

    def run(self, argv: Sequence[str], *, given: str = "") -> str:
        """Stdout of a command on this host, run without SSH; ``given`` is its standard input."""
        self.touched = True
        argv = ["nsenter", f"--target={self.pid}", "--all", "--", *argv]
        environ = {"HOME": self.cluster.home, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
        done = subprocess.run(argv, env=environ, input=given, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{self.name}: {shlex.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def commands(self) -> dict[int, str]:
        """Its processes, as the machine sees them: PID and command line."""
        space, found = Path(f"/proc/{self.pid}/ns/pid").readlink(), {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "ns" / "pid").readlink() == space:
                    words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[int(process.name)] = b" ".join(words).decode(errors="replace")
            except OSError:  # it ended while we looked
                continue
        return found

    def start(self) -> None:
        """Boot: the disk is what it was when the host went off."""
        cluster, me, log = self.cluster, self.name, self.cluster.folder / f"{self.name}.log"
        ours = ["nsenter", f"--target={cluster.keeper}", "--mount", "--pid", "--net", "--"]
        fresh = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"]
        fresh += ["--kill-child", "--propagation=private", "--"]
        host = ["sh", str(HERE / "host.sh"), me, self.address, str(self.disk), cluster.home]
        host += [":".join(cluster.lower), str(self.disk / f"boot{self.boot}")]
        with log.open("w") as said:
            process = subprocess.Popen(
                [*ours, *fresh, *host], cwd="/", stdin=subprocess.PIPE, stdout=said, stderr=said,
                text=True, start_new_session=True,
            )  # fmt: skip
        self.pid = child_of(process.pid, 2, process, log)
        # The same hardware address every time: nobody's neighbour table is out of date.
        cable = ["ip", "link", "add", f"port{self.number}", "type", "veth", "peer", "name", "eth0"]
        cable += ["address", f"02:77:00:00:00:{self.number:02x}", "netns", str(self.pid)]
        cluster.run(cable)
        cluster.run(["ip", "link", "set", f"port{self.number}", "master", "switch", "up"])
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.close()
        deadline = time.monotonic() + START_SECONDS
        while not self.listens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"{me} does not come up: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        cluster.processes.append(process)
        cluster.save()

    def listens(self) -> bool:
        """Whether its sshd does."""
        try:
            rows = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        except OSError:
            return False
        return any(row.split()[1].endswith(":0016") and row.split()[3] == "0A" for row in rows)

    def off(self) -> None:
        """Cut the power: nobody gets a FIN or RST from it."""
        try:
            self.cluster.run(["ip", "link", "delete", f"port{self.number}"])
        except ClusterError as error:
            if "Cannot find device" not in str(error):  # it went with a host that ended by itself
                raise
        since = started(self.pid)
        if since:
            os.kill(self.pid, signal.SIGKILL)
            while started(self.pid) == since:
                time.sleep(0.005)
        self.pid = 0
        self.cluster.save()

    def reset(self) -> None:
        """Off, and on again as it was when it was new, but for its SSH key and machine id."""
        if self.pid:
            self.off()
        old = Path(f"/proc/{self.cluster.keeper}/root{self.disk}/boot{self.boot}")
        shutil.rmtree(old, ignore_errors=True)
        self.boot += 1
        self.start()
        self.touched = False

    def cut(self) -> None:
        """Its switch port goes silent: no end sees that the link is gone."""
        self.touched = True
        self.port(0)

    def mend(self) -> None:
        """The switch port forwards again, and nobody remembers that the host was gone."""
        self.port(3)
        for node in [n for n in self.cluster.nodes if n.pid]:
            enter = ["nsenter", f"--target={node.pid}", "--net", "--"]
            subprocess.run([*enter, "ip", "neigh", "flush", "dev", "eth0"], check=True)
        self.cluster.run(["ip", "neigh", "flush", "dev", "switch"])

    def port(self, state: int) -> None:
        """Set its switch port's state: 0 is disabled, 3 forwarding."""
        port = ["bridge", "link", "set", "dev", f"port{self.number}", "state", str(state)]
        self.cluster.run(port)


@dataclass
class Cluster:
    """Running hosts. ``home``: their one user's home; ``lower``: folders that it begins with."""

    folder: Path
    home: str
    lower: tuple[str, ...] = ()
    keeper: int = 0
    keeper_started: int = 0
    nodes: list[Node] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F`` and ``--ssh-config``."""
        return self.folder / "ssh_config"

    def node(self, name: str) -> Node:
        """A host by its name."""
        return next(node for node in self.nodes if node.name == name)

    def run(self, argv: Sequence[str]) -> str:
        """Stdout of a command in the controller's network; only there are the hosts reached."""
        done = subprocess.run([*self.entry(), *argv], capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{shlex.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def entry(self) -> list[str]:
        """What goes before a command to run it in the controller's network."""
        return ["nsenter", f"--target={self.keeper}", "--net", "--"]

    def mended(self) -> None:
        """Every host that a test touched, as it was when it was new."""
        for node in self.nodes:
            if node.touched or not node.pid:
                node.reset()

    def save(self) -> None:
        """Write down what ``load`` reads."""
        nodes = [{"number": n.number, "pid": n.pid, "boot": n.boot} for n in self.nodes]
        record = {"home": self.home, "lower": self.lower, "nodes": nodes}
        record |= {"keeper": self.keeper, "keeper_started": self.keeper_started}
        (self.folder / "cluster.json").write_text(json.dumps(record))

    def close(self) -> None:
        """End the keeper; all the rest goes with it."""
        if self.keeper and started(self.keeper) == self.keeper_started:
            os.kill(self.keeper, signal.SIGKILL)
        for process in self.processes:
            if process.stdin:
                process.stdin.close()
            process.wait()
        (self.folder / "cluster.json").unlink(missing_ok=True)


def load(folder: Path) -> Cluster:
    """The cluster that ``up`` left running in a folder."""
    try:
        record = json.loads((folder / "cluster.json").read_text())
    except OSError:
        raise ClusterError(f"no cluster in {folder}") from None
    nodes = record.pop("nodes")
    cluster = Cluster(folder=folder, **{**record, "lower": tuple(record["lower"])})
    if started(cluster.keeper) != cluster.keeper_started:
        raise ClusterError(f"the cluster in {folder} has ended")
    cluster.nodes = [Node(cluster=cluster, **node) for node in nodes]
    return cluster


def start(
    folder: Path,
    n: int = 4,
    *,
    home: str = "",
    lower: Sequence[str] = (),
    shared_home: bool = False,
    held: bool = True,
) -> Cluster:
    """``n`` hosts, described in ``folder``. ``held``: they end with this process.

    ``shared_home``: one home for all, empty at first, as from a file server.
    """
    lacking = missing()
    if lacking:
        raise ClusterError(lacking)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / "cluster.json").exists():
        raise ClusterError(f"a cluster is up in {folder}, or was: end it with down")
    cluster = Cluster(folder=folder, home=home or str(folder / "home"), lower=tuple(lower))
    try:
        start_keeper(cluster, held=held)
        if shared_home:
            Path(f"/proc/{cluster.keeper}/root{folder}/disks/shared").mkdir(mode=0o700)
        write_files(cluster, n)
        for number in range(1, n + 1):
            cluster.nodes.append(Node(cluster=cluster, number=number))
            cluster.nodes[-1].start()
    except BaseException:
        cluster.close()
        raise
    return cluster


def start_keeper(cluster: Cluster, *, held: bool) -> None:
    """The process that holds the disks and the switch."""
    disks, log = cluster.folder / "disks", cluster.folder / "keeper.log"
    disks.mkdir(exist_ok=True)
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--propagation=private"]
    # -I: nothing of the tests' environment counts; a signal to end it takes its hosts along.
    argv += ["--kill-child", "--", sys.executable, "-I", "-c", KEEPER, "held" if held else "free"]
    with log.open("w") as said:
        process = subprocess.Popen(
            argv, cwd="/", stdin=subprocess.PIPE if held else subprocess.DEVNULL,
            stdout=said, stderr=said, text=True, start_new_session=True,
        )  # fmt: skip
    cluster.processes.append(process)
    cluster.keeper = child_of(process.pid, 1, process, log)
    cluster.keeper_started = started(cluster.keeper)
    mount = ["mount", "-t", "tmpfs", "-o", "mode=755,size=8g", "disks", str(disks)]
    subprocess.run(["nsenter", f"--target={cluster.keeper}", "--mount", "--", *mount], check=True)
    cluster.run(["ip", "link", "set", "lo", "up"])
    cluster.run(["ip", "link", "add", "switch", "type", "bridge"])
    cluster.run(["ip", "addr", "add", f"{CONTROLLER}/24", "dev", "switch"])
    cluster.run(["ip", "link", "set", "switch", "up"])


def keygen(path: Path, comment: str) -> str:
    """A new key; its public part, as known_hosts and authorized_keys hold it."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(argv, check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def write_files(cluster: Cluster, n: int) -> None:
    """Keys, names and addresses: on each host's disk, and for the controller."""
    folder = cluster.folder
    for key in (folder / "id", folder / "id.pub"):
        key.unlink(missing_ok=True)
    login = keygen(folder / "id", "cluster")
    hosts = "127.0.0.1 localhost\n"
    hosts += "".join(f"{NETWORK}.{i} node{i}\n" for i in range(1, n + 1))
    known, config = "", ""
    for number in range(1, n + 1):
        name, address = f"node{number}", f"{NETWORK}.{number}"
        disk = Path(f"/proc/{cluster.keeper}/root{folder}/disks/{name}")
        disk.mkdir()
        known += f"{name},{address} {keygen(disk / 'key', name)}\n"
        (disk / "authorized_keys").write_text(login + "\n")
        (disk / "machine-id").write_text(uuid.uuid4().hex + "\n")
        (disk / "hosts").write_text(hosts)
        config += f"Host {name} {address}\n  HostName {address}\n"
    config += (
        f'Host *\n  User root\n  IdentityFile "{folder}/id"\n  IdentitiesOnly yes\n'
        f'  UserKnownHostsFile "{folder}/known_hosts"\n  GlobalKnownHostsFile /dev/null\n'
        "  StrictHostKeyChecking yes\n  BatchMode yes\n"
    )
    (folder / "known_hosts").write_text(known)
    (folder / "ssh_config").write_text(config)
    (folder / "hosts.txt").write_text("".join(f"node{i} slots=1\n" for i in range(1, n + 1)))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    usage = str(__doc__).partition("\n\nA host is")[0]
    parser = argparse.ArgumentParser(
        usage=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    verbs = ("up", "run", "exec", "off", "boot", "reset", "cut", "mend", "status", "down")
    for verb in verbs:
        sub = commands.add_parser(verb)
        sub.add_argument("--folder", type=Path, required=True)
        if verb == "up":
            sub.add_argument("n", type=int, nargs="?", default=4)
            sub.add_argument("--home", default="", help="home of the hosts' one user")
            sub.add_argument("--lower", action="append", default=[], help="what a home begins with")
        elif verb not in ("run", "status", "down"):
            sub.add_argument("node")
        if verb in ("run", "exec"):
            sub.add_argument("argv", nargs="+")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    args = parse_args(argv)
    if args.command == "up":
        cluster = start(args.folder, args.n, home=args.home, lower=args.lower, held=False)
        print(f"{args.n} hosts up: ssh_config, hosts.txt and logs are in {cluster.folder}")
        return 0
    cluster = load(args.folder.resolve())
    if args.command == "down":
        cluster.close()
    elif args.command == "status":
        for node in cluster.nodes:
            print(node.name, node.address, f"pid {node.pid}" if started(node.pid) else "off")
    elif args.command == "run":
        os.execvp("nsenter", [*cluster.entry(), *args.argv])
    elif args.command == "exec":
        print(cluster.node(args.node).run(args.argv), end="")
    else:
        node = cluster.node(args.node)
        actions = {"off": node.off, "boot": node.start, "reset": node.reset}
        (actions | {"cut": node.cut, "mend": node.mend})[args.command]()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
