from __future__ import annotations

import time

from provision.push.rate import Pace, progress


def test_progress_names_the_hosts_that_lack_most():
    needed = dict.fromkeys(["n1", "n2", "n3", "n4", "n5", "n6"], 1_000_000)
    come = {"n1": 1_000_000, "n2": 100_000, "n3": 500_000, "n4": 0, "n5": 900_000, "n6": 950_000}
    line = progress(needed, come, 850_000)
    assert line == (
        "3.5 MB of 6.0 MB, 850.0 kB/s, 3 s left; n4 0 %, n2 10 %, n3 50 %, n5 90 % and 1 more"
    )
    assert "nothing moves" in progress(needed, come, 0)


def test_a_pace_is_held(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(1000.0)
    for _ in range(3):
        pace.apply_wait(500)
    assert slept == [0.0, 0.5, 1.0]
