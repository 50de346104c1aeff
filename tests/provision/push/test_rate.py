from __future__ import annotations

import time

import pytest

from provision.errors import ConfigError
from provision.numbers import parse_rate
from provision.push.rate import Pace, progress, size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50MB/s", 50e6), ("1.5G", 1.5e9), ("800k", 8e5), ("12mb", 12e6), ("7", 7.0), (None, 0.0)],
)
def test_a_limit_is_bytes_a_second(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "0", "-3MB/s", "50MiB/s", "50 MB/h", ""])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match="--limit 50MB/s"):
        parse_rate(text)


def test_progress_names_the_hosts_that_lack_most():
    needed = dict.fromkeys(["n1", "n2", "n3", "n4", "n5", "n6"], 1_000_000)
    come = {"n1": 1_000_000, "n2": 100_000, "n3": 500_000, "n4": 0, "n5": 900_000, "n6": 950_000}
    line = progress(needed, come, 850_000)
    assert line == (
        "3.5 MB of 6.0 MB, 850.0 kB/s, 3 s left; n4 0 %, n2 10 %, n3 50 %, n5 90 % and 1 more"
    )
    assert "nothing moves" in progress(needed, come, 0)


def test_sizes_in_words():
    assert [size(n) for n in (7, 1500, 2.5e6, 3e9)] == ["7 bytes", "1.5 kB", "2.5 MB", "3.0 GB"]


def test_a_pace_is_held(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(1000.0)
    for _ in range(3):
        pace.apply_wait(500)
    assert slept == [0.0, 0.5, 1.0]
