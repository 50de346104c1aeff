"""A real Slurm on one Linux machine, for tests: a head and nodes with power to cut.

Each machine is a set of kernel namespaces: its own name, network interface and PIDs. All of them
see this machine's files, as the nodes of a cluster see a shared file system. Each node has two GPUs
that are /dev/null. Everything belongs to the keeper of cluster.py and ends with it. No accounting,
as on many small clusters; no cgroups, which a container may not have.

Needs root, and Debian's packages slurm-wlm and munge. Standard library.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.cluster.cluster import (
    CONTROLLER,
    NETWORK,
    Cluster,
    ClusterError,
    child_of,
    start_keeper,
    started,
)
from tests.integration.cluster.cluster import missing as cluster_missing

HERE = Path(__file__).resolve().parent
GPUS = 2
CPUS = 8  # more than the machine has: two jobs are to fit side by side
#: cred_expire: a requeued job waits as long, and the default is two minutes
#: (https://slurm.schedmd.com/slurm.conf.html#OPT_cred_expire). OverTimeLimit: a slow machine's
#: run is asked to pause in time, but needs more of it than a fast one's.
CONF = """\
ClusterName=bed
SlurmctldHost=head({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
KillWait=3
OverTimeLimit=5
MinJobAge=3600
SlurmdTimeout=10
"""


def missing() -> str:
    """What keeps a Slurm from being made here; empty if nothing does."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    tools = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
    absent = [tool for tool in tools if not shutil.which(tool, path=path)]
    return f"needs slurm-wlm and munge: {', '.join(absent)}" if absent else cluster_missing()


@dataclass
class Slurm:
    """A running one. ``pids``: each machine's PID 1 as the machine sees it."""

    cluster: Cluster = field(repr=False)
    folder: Path
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> list[str]:
        """The nodes' names, without the head."""
        return [name for name in self.pids if name != "head"]

    def environ(self) -> dict[str, str]:
        """What a user on the head has; jobs inherit it."""
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        home = str(self.folder / "home")
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "HOME": home, "PATH": path}

    def on_head(self, argv: Sequence[str], cwd: Path | None = None) -> list[str]:
        """A command as one of this machine, which runs it on the head."""
        nsenter = shutil.which("nsenter")  # here: the command's own PATH may be another
        assert nsenter
        enter = [nsenter, f"--target={self.pids['head']}"]
        enter += ["--mount", "--uts", "--ipc", "--net", "--pid", f"--wd={cwd or self.folder}"]
        return [*enter, "--", *argv]

    def login(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """A command on the head, where users log in, and what it said."""
        return subprocess.run(
            self.on_head(argv, cwd),
            env=os.environ | self.environ() | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def say(self, *argv: str) -> str:
        """Stdout of a command on the head that has to succeed."""
        done = self.login(argv)
        if done.returncode:
            raise ClusterError(f"{shlex.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def commands(self, name: str) -> list[str]:
        """Command lines of a node's processes, without Slurm's own."""
        space, found = Path(f"/proc/{self.pids[name]}/ns/pid").readlink(), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "ns" / "pid").readlink() == space:
                    words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found.append(b" ".join(words).decode(errors="replace"))
            except OSError:  # it ended while we looked
                continue
        own = ("slurmd -D", f"sh {HERE / 'node.sh'}")
        return [line for line in found if line and not line.startswith(own)]

    def boot(self, name: str) -> None:
        """Turn a machine on."""
        log = self.folder / "log" / f"{name}.boot"
        argv = ["nsenter", f"--target={self.cluster.keeper}", "--mount", "--pid", "--net", "--"]
        argv += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        argv += ["--propagation=private", *(["--net"] if name != "head" else []), "--"]
        argv += ["sh", str(HERE / "node.sh"), name, str(self.folder)]
        with log.open("a") as said:
            process = subprocess.Popen(
                argv, cwd="/", stdin=subprocess.PIPE, stdout=said, stderr=said, text=True,
                start_new_session=True,
            )  # fmt: skip
        self.cluster.processes.append(process)
        self.pids[name] = pid = child_of(process.pid, 2, process, log)
        assert process.stdin
        if name != "head":
            number = name.removeprefix("node")
            cable = ["ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0"]
            self.cluster.run([*cable, "netns", str(pid)])
            self.cluster.run(["ip", "link", "set", f"port{number}", "master", "switch", "up"])
            process.stdin.write(f"{NETWORK}.{number}\n")
        process.stdin.close()

    def off(self, name: str) -> None:
        """Cut a node's power: its processes are gone, and nobody hears of it."""
        number = name.removeprefix("node")
        self.cluster.run(["ip", "link", "delete", f"port{number}"])
        pid = self.pids[name]
        since = started(pid)
        os.kill(pid, signal.SIGKILL)
        while started(pid) == since:
            time.sleep(0.005)

    def mend(self) -> None:
        """Every node has power, and is idle."""
        for name in self.nodes:
            if not started(self.pids[name]):
                self.boot(name)
        self.wait_idle()

    def wait_idle(self, seconds: float = 180) -> None:
        """Until all nodes are idle; ClusterError, with what Slurm says of them, if they aren't."""
        deadline, seen = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            done = self.login(
                ["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N %T"]
            )
            seen = done.stdout + done.stderr
            if sorted(seen.splitlines()) == sorted(f"{name} idle" for name in self.nodes):
                return
            time.sleep(0.2)
        logs = [self.folder / "log" / f"{name}.boot" for name in self.pids]
        tails = "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in logs)
        raise ClusterError(f"Slurm's nodes are not idle:\n{seen}\n{tails}")

    def close(self) -> None:
        """End the keeper; all the rest goes with it."""
        self.cluster.close()


def write_files(folder: Path, names: Sequence[str]) -> None:
    """The configuration of all machines, and the folders that it names."""
    for part in ("state", "spool", "log", "home", "dev"):
        (folder / part).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for number in range(GPUS):
        (folder / "dev" / f"gpu{number}").symlink_to("/dev/null")
    hosts, conf = f"127.0.0.1 localhost\n{CONTROLLER} head\n", CONF
    for number, name in enumerate(names, 1):
        (folder / "spool" / name).mkdir()
        hosts += f"{NETWORK}.{number} {name}\n"
        conf += f"NodeName={name} NodeAddr={NETWORK}.{number} CPUs={CPUS} RealMemory=16000 "
        conf += f"Gres=gpu:{GPUS}\n"
    every = ",".join(names)
    conf += f"PartitionName=debug Nodes={every} Default=YES DefaultTime=5 MaxTime=60 State=UP\n"
    conf += f"PartitionName=paid Nodes={every} AllowAccounts=physics State=UP\n"
    gres = f"AutoDetect=off\nName=gpu File={folder}/dev/gpu[0-{GPUS - 1}]\n"
    (folder / "hosts").write_text(hosts)
    (folder / "slurm.conf").write_text(conf.format(controller=CONTROLLER, folder=folder))
    (folder / "gres.conf").write_text(gres)


def start(folder: Path, n: int = 2) -> Slurm:
    """A Slurm with ``n`` idle nodes; it ends with this process.

    ClusterError when it can't be. ``folder`` must be new; Slurm takes no space in its name.
    """
    if lacking := missing():
        raise ClusterError(lacking)
    folder = folder.resolve()
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    names = [f"node{number}" for number in range(1, n + 1)]
    write_files(folder, names)
    slurm = Slurm(cluster=Cluster(folder=folder, home=""), folder=folder)
    try:
        start_keeper(slurm.cluster, held=True)
        enter = ["nsenter", f"--target={slurm.cluster.keeper}", "--mount", "--", "sh", "-c"]
        run = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/munge"
        subprocess.run([*enter, run], check=True)
        for name in ("head", *names):
            slurm.boot(name)
        slurm.wait_idle()
    except BaseException:
        slurm.close()
        raise
    return slurm
