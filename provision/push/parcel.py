"""A file that is pushed, with the hash of each of its chunks."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from provision.errors import ConfigError
from provision.steps import Put

#: Small, so that the next host waits little before it can begin; large files have larger ones, so
#: that their list of hashes stays short (100 GB: 3 MB).
CHUNK, LARGE_CHUNK, LARGE = 1 << 18, 1 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """``put`` as it is on this machine; ``hashes``: sha256 of each ``chunk`` bytes of it."""

    put: Put
    chunk: int
    hashes: tuple[bytes, ...] = field(repr=False)

    def length(self, chunk: int) -> int:
        """Bytes of a chunk: all are of one length but the last."""
        return min(self.chunk, self.put.size - chunk * self.chunk)

    def order(self, *, wanted: bool, check: bool = False) -> dict[str, object]:
        """As onhost/relay.py is told of it. ``check``: to be hashed there, if it is there."""
        return {
            "target": self.put.target,
            "sha256": self.put.sha256,
            "size": self.put.size,
            "mode": self.put.mode,
            "chunk": self.chunk,
            "hashes": base64.b64encode(b"".join(self.hashes)).decode(),
            "wanted": wanted,
            "check": check,
        }

    def read_open(self) -> BinaryIO:
        """The file's bytes."""
        return (
            self.put.source.open("rb") if self.put.source else io.BytesIO(self.put.content or b"")
        )


def read_parcel(put: Put) -> Parcel:
    """Read a file once: every chunk's hash. ConfigError if it is not what was planned."""
    parcel = Parcel(put=put, chunk=LARGE_CHUNK if put.size >= LARGE else CHUNK, hashes=())
    whole, hashes, count = hashlib.sha256(), [], 0
    with parcel.read_open() as stream:
        while data := stream.read(parcel.chunk):
            whole.update(data)
            hashes.append(hashlib.sha256(data).digest())
            count += len(data)
    if (whole.hexdigest(), count) != (put.sha256, put.size):
        raise ConfigError(
            str(put.source or put.target),
            found=f"{count:,} bytes, sha256 {whole.hexdigest()[:12]}",
            expected=f"{put.size:,} bytes, sha256 {put.sha256[:12]}, as when it was planned",
            remedy="run the command again; if it still differs, remove that file: what was "
            "downloaded or built then comes anew",
        )
    return Parcel(put=put, chunk=parcel.chunk, hashes=tuple(hashes))


def read_parcels(puts: Sequence[Put]) -> list[Parcel]:
    """Likewise for several, on all cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(read_parcel, puts))
