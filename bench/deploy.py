"""Pushing a file to 1, 4, 8 and 16 hosts: ours against what else is used for that.

    python bench/deploy.py                        100 MB, every way, every number of hosts (minutes)
    python bench/deploy.py --mb 20 --hosts 1,16 --ways ours,scp
    python bench/deploy.py --again 4              deploys to 4 hosts that change nothing, or little

The hosts are namespaces of this machine (tests/integration/cluster; root), each with a link of its
own: what it sends, and what the controller sends, is limited by tc to --mbit. The limits beside
each figure are of the links alone: a star sends the file once for each host over the controller's
link; a chain that streams sends it once over each link, all at the same time, each a chunk behind
the one before. Every figure is the whole command, its own start included; the file is new each
time. A way whose program is not there is named and left out; Ansible and clush get an environment
in --folder (pip, pinned).

--again deploys a small environment (tests/integration/kill/stage.py), then the same again, beside
`ssh HOST true` to all hosts at once over new connections; the same with all of the hosts read
again, as if they had changed; then one with a single package changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from provision.push.parcel import CHUNK  # noqa: E402
from tests.integration.cluster import cluster as bed  # noqa: E402
from tests.integration.kill.stage import Stage, make_stage  # noqa: E402

PEERS = ("ansible-core==2.19.14", "ClusterShell==1.9.3")
FABRIC = """\
import sys
from concurrent.futures import ThreadPoolExecutor
from fabric import Config, Connection
config, source, *hosts = sys.argv[1:]
shared = lambda: Config(runtime_ssh_path=config)
put = lambda host: Connection(host, config=shared()).put(source, "pushed")
with ThreadPoolExecutor(len(hosts)) as pool:
    list(pool.map(put, hosts))
"""


def limit(cluster: bed.Cluster, mbit: int) -> None:
    """What the controller and every host can send a second."""
    tbf = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "128kb", "latency", "400ms"]
    cluster.run(["tc", "qdisc", "add", "dev", "switch", *tbf])
    for node in cluster.nodes:
        node.run(["tc", "qdisc", "add", "dev", "eth0", *tbf])


def peers(folder: Path) -> Path:
    """The peers' programs: an environment made once a folder."""
    binaries = folder / "peers" / "bin"
    if not (binaries / "ansible").exists():
        print("installing", *PEERS, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(binaries.parent)], check=True)
        subprocess.run([str(binaries / "pip"), "install", "-q", *PEERS], check=True)
    return binaries


def ways(
    folder: Path, cluster: bed.Cluster, names: Sequence[str], asked: Sequence[str]
) -> Mapping[str, Sequence[str]]:
    """Name → command that puts ``folder/file`` onto these hosts, side by side; those asked for."""
    config, source = str(cluster.ssh_config), str(folder / "file")
    binaries = folder / "peers" / "bin"
    (folder / "chosen.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "fabric_put.py").write_text(FABRIC)
    each = ["xargs", "-a", str(folder / "chosen.txt"), "-P", "16", "-I{}", "sh", "-c"]
    # The file is a new one each time: rsync would take one of the same size and second for the old
    rsync = ["rsync", "--whole-file", "--ignore-times", "-e", f"ssh -F {shlex.quote(config)}"]
    ours = [sys.executable, "-P", "-m", "invoke", "--search-root", str(ROOT), "push", source]
    ansible = [str(binaries / "ansible"), "all", "-i", ",".join(names) + ",", "-f", "16"]
    clush = [str(binaries / "clush"), "-S", "-w", ",".join(names), "-o", f"-F {config}"]
    found = {
        "ours": [*ours, "--hosts", str(folder / "chosen.txt"), "--ssh-config", config],
        "scp": [*each, shlex.join(["scp", "-qF", config, source]) + " {}:pushed"],
        "rsync": [*each, shlex.join([*rsync, source]) + " {}:pushed"],
        "ansible": [*ansible, "-m", "copy", "-a", f"src={source} dest=pushed"],
        "clush": [*clush, "-c", source, "--dest", "pushed"],
        "fabric": [sys.executable, str(folder / "fabric_put.py"), config, source, *names],
    }
    for name in [name for name in asked if not runs(name, found[name][0])]:
        print(f"{name}: not on this machine, left out", file=sys.stderr)
        del found[name]
    return {name: found[name] for name in asked if name in found}


def runs(name: str, program: str) -> bool:
    """Whether a way's programs are there."""
    return bool(shutil.which(program)) and (
        name not in ("scp", "rsync") or bool(shutil.which(name))
    )


def measure(argv: Sequence[str], folder: Path, cluster: bed.Cluster) -> float:
    """Wall seconds of a command that has to succeed, in the controller's network."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
    environ |= {"ANSIBLE_SSH_ARGS": f"-F {cluster.ssh_config}", "ANSIBLE_NOCOLOR": "1"}
    environ |= {"ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Python programs, ours among them, start as usual
    began = time.perf_counter()
    done = subprocess.run(
        [*cluster.entry(), *argv], cwd=folder, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(argv)[:200]}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return seconds


def warm_up(folder: Path, cluster: bed.Cluster, options: argparse.Namespace) -> None:
    """Every way once, with a file of one byte: what is only so the first time is not measured."""
    (folder / "file").write_bytes(b"x")
    for command in ways(folder, cluster, [cluster.nodes[0].name], options.ways).values():
        measure(command, folder, cluster)


def compare(folder: Path, cluster: bed.Cluster, options: argparse.Namespace) -> None:
    """Every way to every number of hosts, and what the links alone allow."""
    size, link = options.mb * 10**6, options.mbit * 1e6 / 8
    once, table = size / link, {}
    for count in options.hosts:
        names = [node.name for node in cluster.nodes[:count]]
        chosen = ways(folder, cluster, names, options.ways)
        chain = once + (count - 1) * CHUNK / link
        print(f"{count} hosts: star {count * once:.1f} s, chain {chain:.1f} s by the links alone")
        for name, command in chosen.items():
            (folder / "file").write_bytes(os.urandom(size))
            seconds = table[name, count] = measure(command, folder, cluster)
            ratio = seconds / table[name, options.hosts[0]]
            first = f"{ratio:5.2f} x its {options.hosts[0]}"
            print(
                f"  {name:8} {seconds:7.1f} s  {first}  {seconds / chain:5.2f} x the chain",
                flush=True,
            )
    rows = [{"way": way, "hosts": count, "seconds": s} for (way, count), s in table.items()]
    (folder / "deploy.json").write_text(json.dumps({"bytes": size, "rows": rows}))


def timed(argv: Sequence[str], stage: Stage) -> float:
    """Wall seconds of a command in the controller's network."""
    began = time.perf_counter()
    subprocess.run([*stage.cluster.entry(), *argv], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


#: What deploy's own question to the hosts has in place of OpenSSH's default.
KEX = "-o KexAlgorithms=-sntrup761x25519-sha512*"


def deploy_again(folder: Path, hosts: int) -> None:
    """What a deploy takes that finds nothing to do, or one package; seconds are medians of five."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    stage = make_stage(folder, hosts, cache=kept)
    config = shlex.quote(str(stage.cluster.ssh_config))
    logins = [f"ssh -F {config} {node.name} true &" for node in stage.cluster.nodes]
    cheaper = [f"ssh {KEX} -F {config} {node.name} true &" for node in stage.cluster.nodes]
    try:
        stage.choose(0)
        whole = stage.deploy()["hosts"]["node1"]["bytes_sent"]
        logged, sooner, deployed, read, sent = [], [], [], [], 0
        for _ in range(5):
            logged.append(timed(["sh", "-c", " ".join([*logins, "wait"])], stage))
            sooner.append(timed(["sh", "-c", " ".join([*cheaper, "wait"])], stage))
            for times, quick in ((deployed, True), (read, False)):
                if not quick:  # as if this machine did not know what the hosts were
                    shutil.rmtree(folder / "cache" / "zerofleet" / "deployed")
                began = time.perf_counter()
                code, answer, said = stage.invoke("deploy")
                times.append(time.perf_counter() - began)
                if code or quick is not ("every host is as it was" in said):
                    raise SystemExit(f"deploy again: exit {code}\n{said}")
                sent += sum(host["bytes_sent"] for host in answer["hosts"].values())
        stage.choose(1)
        changed = stage.deploy()["hosts"]
    finally:
        stage.cluster.close()
    login, ours, again, whole_look = map(statistics.median, (logged, sooner, deployed, read))
    print(f"ssh true to {hosts} hosts, side by side, new connections: {login:.2f} s")
    print(f"the same with deploy's key exchange (provision/openssh.py): {ours:.2f} s")
    print(
        f"deploy with nothing changed: {again:.2f} s, {again / login:.2f} x that; {sent} bytes sent"
    )
    print(f"deploy with nothing changed, all of the hosts read again: {whole_look:.2f} s")
    each = ", ".join(f"{host} {one['bytes_sent']:,}" for host, one in changed.items())
    print(f"deploy with one package changed: bytes sent: {each}; the first time {whole:,} each")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--mbit", type=int, default=100, help="of every link")
    parser.add_argument(
        "--hosts", type=lambda t: [int(n) for n in t.split(",")], default=[1, 4, 8, 16]
    )
    every = ["ours", "scp", "rsync", "ansible", "clush", "fabric"]
    parser.add_argument("--ways", type=lambda text: text.split(","), default=every)
    parser.add_argument("--again", type=int, metavar="HOSTS", help="measure deploys instead")
    parser.add_argument("--folder", type=Path, help="kept between runs (default: a new one)")
    options = parser.parse_args()
    if lacking := bed.missing():
        raise SystemExit(f"bench/deploy.py: {lacking}")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="bench-deploy-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.again:
        deploy_again(Path(tempfile.mkdtemp(dir=folder)), options.again)
        return
    if {"ansible", "clush"} & set(options.ways):
        peers(folder)
    cluster = bed.start(Path(tempfile.mkdtemp(dir=folder)), max(options.hosts))
    try:
        limit(cluster, options.mbit)
        warm_up(folder, cluster, options)
        compare(folder, cluster, options)
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
