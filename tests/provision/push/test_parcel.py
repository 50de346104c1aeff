from __future__ import annotations

import base64
import hashlib

import pytest

from provision.errors import ConfigError
from provision.push.parcel import CHUNK, LARGE, LARGE_CHUNK, read_parcel, read_parcels
from provision.steps import Put

DATA = b"x" * CHUNK + b"rest"


def put(source=None, content=None, data=DATA) -> Put:
    sha = hashlib.sha256(data).hexdigest()
    target = f".zerofleet/store/{sha}/x"
    return Put(target=target, sha256=sha, size=len(data), source=source, content=content)


def test_every_chunk_is_hashed(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    parcels = read_parcels([put(source=tmp_path / "x"), put(content=DATA)])
    for parcel in parcels:
        assert parcel.hashes == (
            hashlib.sha256(DATA[:CHUNK]).digest(),
            hashlib.sha256(b"rest").digest(),
        )
        assert [parcel.length(0), parcel.length(1)] == [CHUNK, 4]
        order = parcel.order(wanted=True)
        assert base64.b64decode(order["hashes"]) == b"".join(parcel.hashes)


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    planned = put(source=tmp_path / "x")
    (tmp_path / "x").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(ConfigError, match="if it still differs, remove that file"):
        read_parcel(planned)


def test_the_hashes_of_a_large_file_stay_few():
    hundred_gb = 100 * 10**9
    assert hundred_gb >= LARGE
    assert hundred_gb / LARGE_CHUNK * 32 < 4e6
