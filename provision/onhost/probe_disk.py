"""The disks of a host: which file system a path is on, what it is and has left; where its home is.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import os
import re
from functools import partial

from provision.onhost.probe_read import read_file, reason, side_by_side

#: Looked at, never written to.
TMP, SHM = "/tmp", "/dev/shm"  # noqa: S108
#: Seconds for one path: a dead NFS never answers.
PATH_SECONDS = 12
#: File systems of several machines whose source in /proc/self/mounts may not look like it.
NETWORK_TYPES = ("beegfs", "beegfs_nodev", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "panfs",
                 "smb3", "wekafs")  # fmt: skip


def read_mount(path: str) -> tuple[str, str, str]:
    """Mount point, type and source of the file system of an existing path: proc_mounts(5)."""
    best = ("/", "", "")
    for line in (read_file("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m.group(1), 8)), fields[1])
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, fields[2], fields[0])
    return best


def nearest_folder(path: str) -> str:
    """Where a path is, or would be: the real path of its nearest existing folder."""
    on = os.path.realpath(os.path.expanduser(path))
    while not os.path.isdir(on):
        on = os.path.dirname(on)
    return on


def read_home_id() -> object:
    """Device and inode of the home folder."""
    found = os.stat(os.path.expanduser("~"))
    return "%d:%d" % (found.st_dev, found.st_ino)


def read_home_place() -> object:
    """What ~/.zerofleet lies in, equal on all hosts that see one and the same folder.

    On a network file system that is its source and the folder's inode; on any other, the machine's
    own, the device's number in place of the source.
    """
    path = os.path.realpath(os.path.expanduser("~/.zerofleet"))
    # The folder above it: it is there before the first deploy, too.
    on = path if os.path.ismount(path) else nearest_folder(os.path.dirname(path))
    _, kind, source = read_mount(on)
    found = os.stat(on)
    if kind not in NETWORK_TYPES and ":" not in source and not source.startswith("//"):
        source = "%s %d" % (read_file("/proc/sys/kernel/random/boot_id"), found.st_dev)
    return "%s %d %s" % (source, found.st_ino, os.path.relpath(path, on))


#: Facts that tell homes apart.
HOMES = {"home.id": read_home_id, "home.place": read_home_place}


def read_disk(path: str) -> dict[str, object]:
    """The file system that a path is on, or would be: looked up at its nearest existing folder."""
    on = nearest_folder(path)
    found = os.statvfs(on)
    mount, kind, _ = read_mount(on)
    return {
        "on": on,
        "free": found.f_bavail * found.f_frsize,
        "total": found.f_blocks * found.f_frsize,
        "inodes_free": found.f_favail,
        "inodes": found.f_files,
        "writable": os.access(on, os.W_OK | os.X_OK),
        "read_only": bool(found.f_flag & os.ST_RDONLY),
        "noexec": bool(found.f_flag & os.ST_NOEXEC),
        "type": kind,
        "mount": mount,
        "device": os.stat(on).st_dev,
    }


def read_disks(paths: list[str]) -> object:
    """Home, ~/.zerofleet, the folder for temporary files, and what was asked for."""
    asked = dict.fromkeys(["~", "~/.zerofleet", os.environ.get("TMPDIR") or TMP, *paths])
    found = side_by_side({p: partial(read_disk, p) for p in asked}, PATH_SECONDS)
    return {
        path: {"error": reason(disk)} if isinstance(disk, Exception) else disk
        for path, disk in found.items()
    }


def read_shm() -> object:
    """What is shared as memory: DataLoader workers and gloo exchange tensors through it."""
    if not os.path.isdir(SHM):
        return None
    found = os.statvfs(SHM)
    size = found.f_frsize
    return {"total": found.f_blocks * size, "free": found.f_bavail * size}
