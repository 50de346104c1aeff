"""One file of a push: grown by chunks on this host's disk, each hashed before it is written.

A file grows beside its target (TARGET.partial); the whole is hashed before the target's name
exists. What was interrupted goes on after the last chunk that still hashes right.

Part of relay.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import threading
from typing import Any, BinaryIO

from provision.onhost.converse import say
from provision.onhost.files import absolute, digest, sync_folder
from provision.onhost.place import make_folder, relink, stored

#: How long one waits for a chunk before it says that it still waits.
WAITING_SECONDS = 2.0
#: FALLOC_FL_KEEP_SIZE of linux/falloc.h: a file's length says how far it has come.
KEEP_SIZE = 1


class Failed(Exception):
    """This push can't go on here: what it is about, what was found, what was expected."""

    def __init__(self, what: str, found: str, expected: str, remedy: str) -> None:
        super().__init__(found)
        self.parts = {"what": what, "found": found, "expected": expected, "remedy": remedy}


class File:
    """One file of the push. ``have``: chunks of it that are on this disk and hashed right."""

    def __init__(self, asked: dict[str, Any]) -> None:
        # What is checked may be there under another name, which folders link to.
        there = stored(asked["sha256"]) if asked.get("check") else ""
        self.target = there or absolute(asked["target"])
        self.name = os.path.basename(self.target)
        self.partial = self.target + ".partial"
        self.sha256: str = asked["sha256"]
        self.size: int = asked["size"]
        self.mode: int = asked["mode"]
        self.chunk: int = asked["chunk"]
        hashes = base64.b64decode(asked["hashes"])
        self.hashes = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
        self.whole = hashlib.sha256()
        self.grown = threading.Condition()
        self.seen = (0, 0)
        self.have = 0
        self.wanted: bool = asked["wanted"]  # else it is served if it is there
        self.complete = os.path.exists(self.target)
        self.proved = not self.complete  # what came in this push was hashed on its way to the disk
        self.mended = False
        if self.complete and asked.get("check"):
            self.mend()
        if self.complete:
            self.have = len(self.hashes)
        elif self.wanted:
            make_folder(os.path.dirname(self.target))
            self._verify()

    @property
    def held(self) -> int:
        """Verified bytes."""
        return min(self.size, self.have * self.chunk)

    def length(self, chunk: int) -> int:
        """Bytes of a chunk: all are of one length but the last."""
        return min(self.chunk, self.size - chunk * self.chunk)

    def right(self, chunk: int, data: bytes) -> bool:
        """Whether these are the chunk's bytes, as the controller said over SSH."""
        return hashlib.sha256(data).digest() == self.hashes[chunk]

    def _verify(self) -> None:
        """Go on after the last chunk of an interrupted push that still hashes right."""
        if not os.path.exists(self.partial):
            return
        with open(self.partial, "rb") as stream:
            self.seen = identity(stream)
            while self.have < len(self.hashes):
                data = stream.read(self.length(self.have))
                if not self.right(self.have, data):
                    break
                self.whole.update(data)
                self.have += 1
        if self.seen[1] > self.held:
            lost = self.seen[1] - self.held
            say("%s: %s of its bytes from before hash wrong, and come again" % (self.name, lost))

    def rotten(self, chunk: int, data: bytes) -> bool:
        """Whether bytes of a file that was here before this push are not the file's any more."""
        return not self.proved and not self.right(chunk, data)

    def mend(self) -> None:
        """Remove a file that rotted on this disk, so that it comes again."""
        if digest(self.target) == self.sha256:
            self.proved = True
            return
        with self.grown:
            os.remove(self.target)
            self.complete, self.proved, self.have = False, True, 0
        self.wanted = self.mended = True
        self.whole = hashlib.sha256()
        say("%s had rotted on this disk: removed, and sent again" % self.name)

    def reserve(self) -> None:
        """Have room for the rest of it on the disk, before a byte of it travels. OSError if not.

        Neither free space nor a quota can then end the push midway; statvfs(3) knows no quotas.
        """
        descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            allocate(descriptor, self.held, self.size - self.held)
        finally:
            os.close(descriptor)

    def give_back(self) -> None:
        """Without the room that was reserved: what came so far stays. truncate(2) does that.

        Nothing is done to a file that is being written, by this push or by another.
        """
        with contextlib.suppress(OSError), open(self.partial, "r+b", 0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.truncate(identity(stream)[1])

    def open(self) -> BinaryIO:
        """The file as it is so far, to be read: the name changes once, while others read it."""
        with self.grown:
            # Unbuffered: nothing is read before it was verified.
            return open(self.target if self.complete else self.partial, "rb", 0)

    def grow(self) -> BinaryIO:
        """The growing file, locked against any other push of it."""
        stream = os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._other("is being written by another push") from None
        named = os.stat(self.partial)
        if self.seen not in ((0, 0), identity(stream)) or named.st_ino != identity(stream)[0]:
            raise self._other("was changed by another push meanwhile")
        if identity(stream)[1] != self.held:  # truncate(2) gives back what was reserved
            stream.truncate(self.held)
            allocate(stream.fileno(), self.held, self.size - self.held)
        stream.seek(self.held)
        return stream

    def _other(self, what: str) -> Failed:
        remedy = "wait until the other push ended, then run the command again"
        return Failed(self.name, self.partial + " " + what, "one push at a time", remedy)

    def add(self, stream: BinaryIO, chunk: int, data: bytes) -> None:
        """The next chunk, hashed right: write it, and have those know who wait for it."""
        self.whole.update(data)
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        with self.grown:
            self.have = chunk + 1
            self.grown.notify_all()

    def finish(self, stream: BinaryIO) -> None:
        """All chunks are there: the name comes into being, on disk too (power may fail next)."""
        if self.whole.hexdigest() != self.sha256:
            os.remove(self.partial)
            found = "sha256 %s of %s" % (self.whole.hexdigest()[:12], self.name)
            remedy = "did the file change meanwhile? run the command again"
            raise Failed("sha256 after the push", found, self.sha256[:12], remedy)
        os.fchmod(stream.fileno(), self.mode)
        os.fsync(stream.fileno())
        with self.grown:
            os.replace(self.partial, self.target)
            self.complete = True
        if self.mended:
            relink(self.target, self.sha256)
        sync_folder(os.path.dirname(self.target))

    def wait(self, chunk: int) -> bool:
        """Whether the chunk is here, after a while at most."""
        with self.grown:
            return self.grown.wait_for(lambda: self.have > chunk, WAITING_SECONDS)


def allocate(descriptor: int, first: int, count: int) -> None:
    """Reserve blocks behind a file's end: fallocate(2). OSError where there is no room for them.

    Not every file system can do that: there nothing is reserved, and what is lacking shows later.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    off = ctypes.c_int64
    if count and libc.fallocate(descriptor, KEEP_SIZE, off(first), off(count)) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(number, os.strerror(number))


def identity(stream: BinaryIO) -> tuple[int, int]:
    """Which file this is, and how long."""
    status = os.fstat(stream.fileno())
    return status.st_ino, status.st_size
