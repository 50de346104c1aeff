"""Paths below HOME, and hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from provision.onhost.files import absolute, digest


def test_a_path_is_below_home_unless_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert [absolute(path) for path in ("a/b", "~/a", "/a")] == ["/h/a/b", "/h/a", "/a"]


def test_a_hash_is_of_all_blocks(tmp_path: Path) -> None:
    data = bytes(range(256)) * (5 << 12)  # five blocks
    (tmp_path / "f").write_bytes(data)
    assert digest(str(tmp_path / "f")) == hashlib.sha256(data).hexdigest()
