"""Pushes to four real hosts with a network, disks and power to break."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.commands.connect import connected_fleet
from provision.commands.push.push import gather_local
from provision.demo.fleet import Fleet
from provision.settings import make_settings
from provision.show import Answer, Stop
from tests.integration.cluster import cluster as bed
from tests.integration.conftest import CHECKOUT, ZfRun

needs_root = pytest.mark.skipif(bool(bed.missing()), reason=bed.missing() or "none")
SIZE = 12_000_000
NODES = ("node1", "node2", "node3", "node4")


@dataclass(frozen=True, kw_only=True)
class Bed:
    """Four hosts, and a folder of this machine with a model in it."""

    cluster: bed.Cluster
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "a model ü"

    def start(self, *args: str) -> subprocess.Popen[str]:
        argv = [*self.cluster.entry(), sys.executable, "-P", "-m", "invoke"]
        argv += ["--search-root", str(CHECKOUT), "push", str(self.model), "--json", *args]
        argv += ["--hosts", str(self.cluster.folder / "hosts.txt")]
        argv += ["--ssh-config", str(self.cluster.ssh_config)]
        return subprocess.Popen(
            argv, env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def push(self, *args: str) -> tuple[dict[str, Any], str]:
        """Its JSON object, and what a person reads."""
        out, err = self.start(*args).communicate(timeout=300)
        assert "Traceback" not in err, err[-3000:]
        return json.loads(out), err

    def stored(self, node: str) -> list[Path]:
        """Whole files and folders in a host's store."""
        found = self.cluster.node(node).path("~/.zerofleet/store").glob("*/*")
        return [path for path in found if path.suffix != ".partial"]

    def write(self) -> None:
        """A model that no test has pushed before."""
        (self.model / "sub dir").mkdir(parents=True, exist_ok=True)
        (self.model / "weights").write_bytes(os.urandom(SIZE))
        (self.model / "sub dir" / "it's").write_text("small")
        (self.model / "config.json").write_text("{}")

    def relays(self) -> list[str]:
        """Relays that run on the hosts."""
        commands = [c for node in self.cluster.nodes for c in node.commands().values()]
        return [command for command in commands if " relay.py " in command]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("push")
    cluster = bed.start(folder / "four hosts", 4)
    yield Bed(cluster=cluster, folder=folder)
    cluster.close()


@pytest.fixture
def hosts(four: Bed) -> Iterator[Bed]:
    """The hosts as new, and a model of its own for each test."""
    four.write()
    yield four
    for node in four.cluster.nodes:
        node.touched = True  # pushed to, if not by the test's own hands
    four.cluster.mended()


def until(condition: Callable[[], Any]) -> None:
    while not condition():  # bounded by the test's own timeout
        time.sleep(0.05)


def grown(store: Path) -> int:
    """Bytes so far of the largest file that is on its way; one gets its name while we look."""
    sizes = [0]
    for path in store.glob("*/*.partial"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


@needs_root
def test_each_byte_leaves_this_machine_once_and_none_the_second_time(hosts: Bed) -> None:
    answer, said = hosts.push()
    assert answer["ok"], said
    assert SIZE < answer["bytes_sent"] < SIZE + 1000
    for node in NODES:
        host = hosts.cluster.node(node)
        there = host.path(answer["path"])
        folder = answer["hosts"][node]["path"]
        check = 'cd "$0" && sha256sum --check --strict ../manifest'
        assert host.run(["sh", "-c", check, folder]).count(": OK") == 3
        assert sorted(path.name for path in there.iterdir()) == [
            "config.json",
            "sub dir",
            "weights",
        ]
        assert answer["hosts"][node]["bytes_fetched"] == answer["bytes_sent"]
    until(lambda: not hosts.relays())

    again, _ = hosts.push()
    assert (again["bytes_sent"], again["path"]) == (0, answer["path"])

    (hosts.model / "config.json").write_text('{"changed": 1}')
    changed, _ = hosts.push()
    assert 0 < changed["bytes_sent"] < 4000
    assert changed["path"] != answer["path"]


@needs_root
def test_a_controller_killed_on_the_way_leaves_no_port_and_goes_on_where_it_was(
    hosts: Bed,
) -> None:
    first = hosts.start("--limit", "2MB/s")
    partial = hosts.cluster.node("node4").path("~/.zerofleet/store")
    until(lambda: grown(partial) > 2_000_000)
    assert len(hosts.relays()) >= 4
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: not hosts.relays())
    for node in NODES:
        listening = hosts.cluster.node(node).run(["ss", "--listening", "--tcp", "--no-header"])
        assert len(listening.splitlines()) == 1, listening  # its SSH server
        assert not [path for path in hosts.stored(node) if path.name == "weights"]

    answer, said = hosts.push()
    assert answer["ok"], said
    assert answer["hosts"]["node4"]["bytes_fetched"] <= SIZE - 2_000_000 + 1000
    assert answer["bytes_sent"] <= SIZE - 2_000_000 + 1000


@needs_root
def test_a_host_that_no_other_reaches_is_sent_to_from_here_and_that_is_said(hosts: Bed) -> None:
    for command in (
        "add table inet t",
        "add chain inet t in { type filter hook input priority 0 ; }",
        "add rule inet t in ip saddr 10.77.0.2 tcp dport != 22 drop",
    ):
        hosts.cluster.node("node1").run(["nft", *command.split()])
    answer, said = hosts.push()
    assert answer["ok"], said
    assert "[node2] node1 can't be reached from there (10.77.0.1 port " in said
    assert "no answer): from here instead, over SSH" in said
    assert 2 * SIZE < answer["bytes_sent"] < 2 * SIZE + 1000


@needs_root
def test_a_host_without_room_stops_the_push_before_a_byte_is_sent(hosts: Bed) -> None:
    node3 = hosts.cluster.node("node3")
    folder = f"{hosts.cluster.home}/.zerofleet"
    node3.run(["mkdir", folder])
    node3.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", folder])
    answer, said = hosts.push()
    assert answer["exit"] == 1
    assert [f["host"] for f in answer["findings"]] == ["node3"]
    assert "node3: disk of ~/.zerofleet/store: found 8.4 MB free, expected 12.0 MB" in said
    assert not [path for node in NODES for path in hosts.stored(node)]


@needs_root
def test_a_power_cut_is_named_and_the_others_have_it(hosts: Bed) -> None:
    process = hosts.start("--limit", "2MB/s")
    store = hosts.cluster.node("node2").path("~/.zerofleet/store")
    until(lambda: grown(store) > 1_000_000)
    hosts.cluster.node("node2").off()
    out, said = process.communicate(timeout=400)
    assert {f["host"] for f in json.loads(out)["findings"]} == {"node2"}, said
    assert "[node3] node2 can't be reached from there" in said
    for node in ("node1", "node3", "node4"):
        assert [path for path in hosts.stored(node) if path.name == "weights"]

    hosts.cluster.node("node2").start()
    answer, said = hosts.push()
    assert answer["ok"], said
    assert answer["bytes_sent"] == 0  # what node2 lacks still, the others have
    assert 0 < answer["hosts"]["node2"]["bytes_fetched"] < SIZE
    until(lambda: not hosts.relays())


@needs_root
def test_what_rotted_on_a_host_is_found_and_mended_by_a_push_that_checks(hosts: Bed) -> None:
    answer, _ = hosts.push()
    node = hosts.cluster.node("node2")
    (weights,) = [path for path in hosts.stored("node2") if path.name == "weights"]
    good, before = weights.read_bytes(), weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(SIZE // 2)
        stream.write(b"flipped")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk does it
    assert hosts.push()[0]["bytes_sent"] == 0
    assert (node.path(answer["path"]) / "weights").read_bytes() != good
    answer, said = hosts.push("--check")
    assert answer["ok"], said
    assert "[node2] weights had rotted on this disk: removed, and sent again" in said
    changed = {name: host["changed"] for name, host in answer["hosts"].items()}
    assert changed == {name: name == "node2" for name in NODES}
    assert (node.path(answer["path"]) / "weights").read_bytes() == good
    until(lambda: not hosts.relays())


@needs_root
def test_a_file_that_rotted_on_a_host_is_passed_on_to_nobody_and_comes_again(hosts: Bed) -> None:
    answer, _ = hosts.push()
    for node in NODES[1:]:
        hosts.cluster.node(node).run(["rm", "-rf", f"{hosts.cluster.home}/.zerofleet"])
    (weights,) = [path for path in hosts.stored("node1") if path.name == "weights"]
    with weights.open("r+b") as stream:
        stream.seek(SIZE // 2)
        stream.write(b"flipped")
    answer, said = hosts.push()
    assert answer["ok"], said
    assert "[node1] weights had rotted on this disk: removed, and sent again" in said
    assert 1.5 * SIZE < answer["bytes_sent"] < 1.5 * SIZE + 300_000  # node2's half, and node1's
    for node in NODES:
        folder = hosts.cluster.node(node).path(answer["path"])  # node1's, too, which was there
        assert (folder / "weights").read_bytes() == (hosts.model / "weights").read_bytes()
        for path in hosts.stored(node):
            if path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name
    until(lambda: not hosts.relays())


def test_a_run_takes_what_was_pushed_by_its_local_path(
    fleet: Fleet, zf_run: ZfRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(fleet.folder)
    Path("pushed model").mkdir()
    Path("pushed model", "weights").write_bytes(os.urandom(2_000_000))
    Path("rows.jsonl").write_text("{}")
    config = yaml.safe_load(Path("invoke.yaml").read_text())["zerofleet"]
    flags = {"model": "./pushed model", "data": "~/there.jsonl,./rows.jsonl"}
    s = make_settings(config, flags, Path.cwd())
    out = Answer(json=True)
    with connected_fleet(s) as hosts:
        with pytest.raises(Stop):
            gather_local(out, s, hosts)
        remedies = [(f["host"], f["remedy"]) for f in out.values["findings"]]
        what = ("./pushed model", "./rows.jsonl")
        commands = [shlex.join(["invoke", "push", each]) for each in what]
        assert remedies == [(node, c) for c in commands for node in NODES[:2]]
        for each in what:
            pushed = zf_run(["push", each, "--json"], fleet.folder)
            assert pushed.returncode == 0, pushed.stderr
            assert pushed.stdout.count("\n") == 1
        taken = gather_local(Answer(json=True), s, hosts)
    assert str(taken.model).startswith("~/.zerofleet/store/")
    assert str(taken.model).endswith("/pushed model")
    own, rows = str(taken.data).split(",")
    assert own == "~/there.jsonl"
    for host in fleet.hosts:
        assert (host.home / str(taken.model)[2:] / "weights").stat().st_size == 2_000_000
        assert (host.home / rows[2:]).read_text() == "{}"
