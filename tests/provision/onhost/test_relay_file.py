"""Files as they grow on hosts and rot there, in real pushes: see relay_host.py."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from provision.onhost import relay_file
from provision.onhost.relay import Relay
from provision.script import read_onhost
from tests.provision.onhost.relay_host import BYTES, CHECKOUT, Host, Push, fed, flip


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


@pytest.mark.parametrize("rotten", [True, False])
def test_what_is_to_be_checked_is_hashed_and_comes_again_only_if_it_rotted(
    hosts, push, rotten
) -> None:
    (host,) = hosts("node1")
    path = host.path(push)
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    if rotten:
        flip(path, 17)
    checked = [parcel.order(wanted=True, check=True) for parcel in push.parcels]
    assert host.begin(push, serve=False, files=checked)["held"] == [0 if rotten else len(BYTES)]
    host.fetch("")
    if rotten:
        host.feed(push)
    assert host.answer() == {"event": "done", "bytes": len(BYTES) if rotten else 0}
    assert path.read_bytes() == BYTES


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
    other.process.wait(120)
    other.process.stdout.close()
    assert answers[1]["event"] == "failed"
    assert "is being written by another push" in answers[1]["found"]


def test_what_a_push_found_is_not_removed_before_it_ends(hosts, push) -> None:
    """Neither what it goes on with, nor a folder that it has just made."""
    (host,) = hosts("node1")
    partial = host.path(push, ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(BYTES[: push.parcels[0].chunk])
    host.begin(push, serve=False)
    assert removed(host) == ""
    assert partial.exists()
    host.fetch("")
    host.feed(push)
    assert host.answer()["event"] == "done"
    assert "a push is at work" in removed(host, push.parcels[0].put.sha256)
    host.process.stdin.close()
    host.process.wait(120)
    assert removed(host, push.parcels[0].put.sha256) == ""
    assert not host.path(push).exists()


def removed(host, *store):
    """What `clean` on the host says that it keeps."""
    argv = [sys.executable, "-c", read_onhost("envs"), "remove"]
    told = json.dumps({"envs": [], "store": store})
    (host.home / ".zerofleet" / "lock").write_text('{"token": "t1"}')
    environ = {"HOME": str(host.home), "ZEROFLEET_LOCK": "t1"}
    done = subprocess.run([*argv, told], env=environ, stderr=subprocess.PIPE, check=False)
    return done.stderr.decode()


def blocks(path):
    return path.stat().st_blocks * 512


def test_room_for_all_is_reserved_before_a_byte_comes_and_given_back_where_none_does(hosts) -> None:
    push = Push(BYTES, BYTES + b"more")
    (host,) = hosts("node1")
    assert host.begin(push, serve=False)["held"] == [0, 0]
    partials = [host.home / (parcel.put.target + ".partial") for parcel in push.parcels]
    assert [path.stat().st_size for path in partials] == [0, 0]
    assert min(map(blocks, partials)) >= len(BYTES)
    host.process.stdin.close()
    host.process.wait(120)
    assert max(map(blocks, partials)) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_for_all_nothing_is_reserved(tmp_path, monkeypatch, push, number) -> None:
    """A quota too: no statvfs knows of it. (The second file's; this kernel may have no quotas.)"""
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = [parcel.order(wanted=True) for parcel in Push(BYTES, BYTES + b"more").parcels]
    given = []

    def allocate(descriptor, first, count):
        given.append((first, count))
        if len(given) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(relay_file, "allocate", allocate)
    relay = Relay()
    with pytest.raises(relay_file.Failed) as failed:
        relay.begin({"files": asked, "serve": False})
    assert failed.value.parts["found"] == os.strerror(number)
    assert given == [(0, len(BYTES)), (0, len(BYTES) + 4)]
