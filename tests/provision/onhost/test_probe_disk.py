"""Disks and homes: which file system a path is on, and who shares it."""

from __future__ import annotations

import pytest

from provision.onhost import probe_disk


@pytest.fixture
def files(monkeypatch):
    """The files that the probe finds, in place of this machine's."""

    return lambda texts: monkeypatch.setattr(probe_disk, "read_file", texts.get)


def test_mounts_are_found_by_the_longest_path(files):
    mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\nnas:/m /data/my\\040models nfs4 rw 0 0"
    files({"/proc/self/mounts": mounts})
    assert probe_disk.read_mount("/data/my models/7b") == ("/data/my models", "nfs4", "nas:/m")
    assert probe_disk.read_mount("/data/my") == ("/data", "xfs", "/dev/b")
    assert probe_disk.read_mount("/database") == ("/", "ext4", "/dev/a")


def test_a_home_s_place_is_the_same_on_hosts_that_share_it_alone(tmp_path, files, monkeypatch):
    boot = "/proc/sys/kernel/random/boot_id"
    monkeypatch.setenv("HOME", str(tmp_path))

    def place(machine: str, source: str, kind: str) -> object:
        files({"/proc/self/mounts": f"{source} / {kind} rw 0 0", boot: machine})
        return probe_disk.read_home_place()

    assert place("boot1", "nas:/home", "nfs4") == place("boot2", "nas:/home", "nfs4")
    assert place("boot1", "gpfs0", "gpfs") == place("boot2", "gpfs0", "gpfs")
    assert place("boot1", "nas:/home", "nfs4") != place("boot1", "nas:/other", "nfs4")
    assert place("boot1", "/dev/vda", "ext4") != place("boot2", "/dev/vda", "ext4")
    before = place("boot1", "/dev/vda", "ext4")
    (tmp_path / ".zerofleet").mkdir()
    assert place("boot1", "/dev/vda", "ext4") == before
    (tmp_path / ".zerofleet").rmdir()
    (tmp_path / ".zerofleet").symlink_to("elsewhere")
    assert place("boot1", "/dev/vda", "ext4") != before


def test_a_read_only_or_noexec_mount_is_told():
    assert probe_disk.read_disk("/proc/self/fd")["type"] == "proc"
    assert probe_disk.read_disk("/proc")["mount"] == "/proc"
