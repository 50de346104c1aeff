"""relay.py as it runs on hosts: real processes, each with a home of its own, on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.onhost import relay
from provision.push.certificate import make_certificate
from provision.push.parcel import Parcel, read_parcel
from provision.steps import Put

CHECKOUT = Path(relay.__file__).parents[2]
BYTES = bytes(range(256)) * 3000 + b"the end"  # three chunks
TOKEN = "ab" * 32


class Host:
    """One host: its home, and the controller's end of its conversation."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home, self.lines = home, []
        self.process = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "provision" / "onhost" / "relay.py")],
            env={
                "HOME": str(home),
                "PYTHONPATH": str(CHECKOUT),
                "SSH_CONNECTION": "127.0.0.1 1 127.0.0.1 22",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, data: bytes = b"", **order: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n" + data)
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            text = line.decode().strip()
            if text.startswith("ZEROFLEET<<"):
                return json.loads(text[len("ZEROFLEET<<") : -len(">>ZEROFLEET")])
            self.lines.append(text)
        raise AssertionError(f"it ended: {self.lines}")

    def until(self, said: str) -> None:
        """Read what it says until it says this."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.decode())
            if said in self.lines[-1]:
                return
        raise AssertionError(self.lines)

    def begin(self, push: Push, *, serve: bool = True, **changes: Any) -> dict[str, Any]:
        files = [parcel.order(wanted=True) for parcel in push.parcels]
        order = {"do": "begin", "files": files, "serve": serve, "address": "", "rate": 0}
        self.tell(**{**order, **push.secret, **changes})
        return self.answer()

    def fetch(self, source: str, port: int = 0, address: str = "127.0.0.1") -> None:
        peers = {source: {"address": address, "port": port}} if source else {}
        self.tell(do="fetch", **{"from": [source] * 9}, peers=peers)

    def feed(self, push: Push) -> None:
        """Send what it asks for."""
        wanted = self.answer()
        assert wanted["event"] == "want"
        for number, first in wanted["files"]:
            parcel = push.parcels[number]
            with parcel.read_open() as stream:
                stream.seek(first * parcel.chunk)
                for chunk in range(first, len(parcel.hashes)):
                    data = stream.read(parcel.length(chunk))
                    self.tell(data, do="bytes", file=number, chunk=chunk, size=len(data))

    def path(self, push: Push, suffix: str = "") -> Path:
        return self.home / (push.parcels[0].put.target + suffix)


class Push:
    """One file of several chunks, and what both ends share."""

    def __init__(self, *contents: bytes) -> None:
        cert, key = make_certificate()
        self.secret = {"cert": cert, "key": key, "token": TOKEN}
        self.parcels: list[Parcel] = [self.parcel(content) for content in contents or (BYTES,)]

    def parcel(self, content: bytes) -> Parcel:
        sha = hashlib.sha256(content).hexdigest()
        target = f".zerofleet/store/{sha}/a file"
        return read_parcel(
            Put(target=target, sha256=sha, size=len(content), content=content, mode=0o444)
        )


@pytest.fixture
def hosts(tmp_path):
    made: list[Host] = []

    def make(*names: str) -> list[Host]:
        made.extend(Host(tmp_path / name) for name in names)
        return made[-len(names) :]

    yield make
    for host in made:
        host.process.stdin.close()
        host.process.wait(20)
        host.process.stdout.close()


@pytest.fixture
def push() -> Push:
    return Push()


def fed(hosts, push: Push) -> tuple[Host, Host, int]:
    """Two hosts, the first of which has everything; and its port."""
    first, second = hosts("node1", "node2")
    port = first.begin(push)["port"]
    first.fetch("")
    first.feed(push)
    assert first.answer()["event"] == "done"
    return first, second, port


def nothing_installed(host: Host, push: Push) -> bool:
    return not host.path(push).exists()


def test_a_host_passes_on_what_it_has_while_more_comes(hosts, push) -> None:
    first, second = hosts("node1", "node2")
    port = first.begin(push)["port"]
    assert second.begin(push)["held"] == [0]
    second.fetch("node1", port)  # before there is anything
    first.fetch("")
    first.feed(push)
    assert first.answer() == second.answer() == {"event": "done", "bytes": len(BYTES)}
    for host in (first, second):
        assert host.path(push).read_bytes() == BYTES
        assert host.path(push).stat().st_mode & 0o777 == 0o444
        assert not host.path(push, ".partial").exists()
    first.tell(do="end")
    assert first.answer() == {"event": "ended"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_several_files_and_empty_ones(hosts) -> None:
    push = Push(b"", BYTES, b"small")
    _first, second, port = fed(hosts, push)
    second.begin(push)
    second.fetch("node1", port)
    assert second.answer() == {"event": "done", "bytes": len(BYTES) + 5}
    for parcel in push.parcels:
        with parcel.read_open() as stream:
            assert (second.home / parcel.put.target).read_bytes() == stream.read()


def test_what_was_interrupted_goes_on_after_the_last_chunk_that_hashes_right(hosts, push) -> None:
    (host,) = hosts("node1")
    partial = host.path(push, ".partial")
    partial.parent.mkdir(parents=True)
    chunk = push.parcels[0].chunk
    partial.write_bytes(BYTES[:chunk] + b"?" + BYTES[chunk + 1 : 2 * chunk + 5])
    assert host.begin(push, serve=False)["held"] == [chunk]
    host.fetch("")
    host.feed(push)
    assert host.answer() == {"event": "done", "bytes": len(BYTES) - chunk}
    assert host.path(push).read_bytes() == BYTES
    assert [line for line in host.lines if "hash wrong, and come again" in line]


def flip(path: Path, at: int) -> None:
    """Another byte at that place, as a disk that rots would have it."""
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"?")


def test_a_byte_flipped_on_the_disk_of_the_host_that_passes_it_on(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    flip(first.path(push), push.parcels[0].chunk + 17)
    second.begin(push)
    second.fetch("node1", port)
    failed = second.answer()
    assert failed["event"] == "failed"
    assert failed["what"] == "bytes from node1"
    assert "chunk 1 of a file hashes wrong" in failed["found"]
    assert nothing_installed(second, push)
    assert second.path(push, ".partial").read_bytes() == BYTES[: push.parcels[0].chunk]


@pytest.mark.parametrize("fault", ["flipped", "truncated"])
def test_a_file_that_rotted_long_ago_is_not_passed_on_and_comes_again(hosts, push, fault) -> None:
    first, second = hosts("node1", "node2")
    path, chunk = first.path(push), push.parcels[0].chunk
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES if fault == "flipped" else BYTES[: chunk + 5])
    if fault == "flipped":
        flip(path, chunk + 17)
    folder = path.parents[1] / ("f" * 64) / "a model"  # a pushed folder has a link to it
    folder.mkdir(parents=True)
    (folder / "weights").hardlink_to(path)
    folder.with_name("manifest").write_text(f"{push.parcels[0].put.sha256}  weights\n")

    port = first.begin(push)["port"]
    second.begin(push)
    second.fetch("node1", port)
    assert second.answer() == {"event": "rotten", "peer": "node1", "file": 0}
    second.feed(push)
    assert second.answer() == {"event": "done", "bytes": len(BYTES)}
    assert second.path(push).read_bytes() == BYTES

    first.tell(do="mend", files=[0])
    first.feed(push)
    assert first.answer() == {"event": "done", "bytes": len(BYTES)}
    assert "ZEROFLEET-SAY a file had rotted on this disk: removed, and sent again" in first.lines
    assert path.read_bytes() == (folder / "weights").read_bytes() == BYTES
    assert [one.name for one in folder.iterdir()] == ["weights"]


def test_a_file_that_did_not_rot_stays(hosts, push) -> None:
    first, _second, _port = fed(hosts, push)
    first.tell(do="mend", files=[0])
    assert first.answer() == {"event": "done", "bytes": len(BYTES)}
    assert first.path(push).read_bytes() == BYTES


def test_a_byte_flipped_on_the_way_from_the_controller(hosts, push) -> None:
    (host,) = hosts("node1")
    host.begin(push, serve=False)
    host.fetch("")
    assert host.answer()["event"] == "want"
    data = b"?" + BYTES[1 : push.parcels[0].chunk]
    host.tell(data, do="bytes", file=0, chunk=0, size=len(data))
    failed = host.answer()
    assert (failed["event"], failed["what"]) == ("failed", "bytes from the controller")
    assert nothing_installed(host, push)


def test_a_wrong_token_is_refused_by_name(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    second.begin(push, token="cd" * 32)
    second.fetch("node1", port)
    failed = second.answer()
    assert (failed["what"], failed["found"]) == ("relay of node1", "it refuses our token")
    assert nothing_installed(second, push)
    first.until("refused a connection from 127.0.0.1: it does not know the token")


def test_a_wrong_certificate_is_refused_by_name(hosts, push) -> None:
    _first, second, port = fed(hosts, push)
    second.begin(push, **Push().secret)
    second.fetch("node1", port)
    failed = second.answer()
    assert (failed["what"], failed["found"]) == ("relay of node1", "another certificate")
    assert nothing_installed(second, push)


def test_a_stranger_is_refused_and_holds_nobody_up(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        first.until("127.0.0.1: no certificate of this push")
    with socket.create_connection(("127.0.0.1", port)):  # one that says nothing at all
        second.begin(push)
        second.fetch("node1", port)
        assert second.answer()["event"] == "done"
    first.tell(do="end")
    first.answer()
    assert len([line for line in first.lines if "refused a connection" in line]) == 1


def test_a_peer_that_is_not_there_is_gone_around(hosts, push) -> None:
    (host,) = hosts("node1")
    host.begin(push)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host.fetch("node9", port)
    lost = host.answer()
    assert (lost["event"], lost["peer"]) == ("lost", "node9")
    assert "Connection refused" in lost["why"]
    host.feed(push)
    assert host.answer()["event"] == "done"


def test_a_peer_that_dies_on_the_way_is_gone_around(hosts, push) -> None:
    first, second = hosts("node1", "node2")
    port = first.begin(push)["port"]
    second.begin(push)
    second.fetch("node1", port)
    first.fetch("")
    assert first.answer()["event"] == "want"
    size = push.parcels[0].chunk
    first.tell(BYTES[:size], do="bytes", file=0, chunk=0, size=size)
    partial = second.path(push, ".partial")
    while not partial.exists() or not partial.stat().st_size:
        pass  # bounded by the test's own timeout
    first.process.kill()
    assert second.answer()["event"] == "lost"
    second.feed(push)
    assert second.answer() == {"event": "done", "bytes": len(BYTES)}


def test_the_port_is_closed_when_the_controller_is_gone(hosts, push) -> None:
    first, _, port = fed(hosts, push)
    first.process.stdin.close()  # what the kernel does when it is killed -9
    first.process.wait(10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_slow_link_and_a_long_begin_are_no_silence(monkeypatch) -> None:
    this, when = relay.Relay(), []
    this.heard = -math.inf
    assert this.take(io.BytesIO(b"fewer"), 6) == b"fewer"
    assert this.heard > 0  # the piece counts, though the order is not whole

    def begin(_: object) -> dict[str, object]:
        when.append(this.heard)
        return {}

    monkeypatch.setattr(this, "begin", begin)
    orders = io.BytesIO(b'{"do": "begin"}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(orders))
    relay.converse(this)
    assert when == [math.inf]  # nobody reads while it hashes what is there
    assert this.heard < math.inf


def test_two_pushes_of_one_file_do_not_write_into_each_other(hosts, push) -> None:
    (host,) = hosts("node1")
    host.begin(push, serve=False)
    host.fetch("")
    assert host.answer()["event"] == "want"
    other = Host.__new__(Host)
    other.home, other.lines = host.home, []
    other.process = subprocess.Popen(
        host.process.args, env={"HOME": str(host.home), "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    other.begin(push, serve=False)
    while not host.path(push, ".partial").exists():
        pass
    other.fetch("")
    answers = [other.answer(), other.answer()]
    other.process.stdin.close()
    other.process.wait(10)
    other.process.stdout.close()
    assert answers[1]["event"] == "failed"
    assert "is being written by another push" in answers[1]["found"]


def test_a_host_without_ssl_gets_all_from_the_controller(hosts, push) -> None:
    (host,) = hosts("node1")
    begun = host.begin(push, cert="no certificate")
    assert "port" not in begun
    assert begun["closed"]
    host.fetch("")
    host.feed(push)
    assert host.answer()["event"] == "done"


def test_key_and_token_are_on_no_command_line_and_in_no_file(hosts, push) -> None:
    first, _, _ = fed(hosts, push)
    secrets = (TOKEN, push.secret["key"].splitlines()[1])
    command = Path(f"/proc/{first.process.pid}/cmdline").read_text()
    files = [p.read_bytes() for p in first.home.rglob("*") if p.is_file()]
    for secret in secrets:
        assert secret not in command
        assert not [data for data in files if secret.encode() in data]
    assert [path.name for path in first.home.iterdir()] == [".zerofleet"]
