"""A push between real processes on loopback: hosts with homes of their own, and what is pushed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from provision.push.certificate import make_certificate
from provision.push.parcel import Parcel, read_parcel
from provision.steps import Put

CHECKOUT = Path(__file__).parents[3]
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


def flip(path: Path, at: int) -> None:
    """Another byte at that place, as a disk that rots would have it."""
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"?")
