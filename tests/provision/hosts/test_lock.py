"""The drift lock as a file: readable, private, atomic, refused where it is no lock."""

from __future__ import annotations

import json

import pytest

from provision.errors import ConfigError
from provision.hosts.lock import (
    LOCKED,
    apply_lock,
    make_lock,
    parse_lock,
    plan_lock,
    read_lock,
    render_lock,
)

WHEN = "2026-11-21T11:00:00+00:00"


@pytest.fixture
def lock_of(make_facts):
    def make(*hosts, manifest=None, written=WHEN, **changes):
        return make_lock({h: make_facts(h, **changes) for h in hosts}, manifest, written)

    return make


def test_what_is_written_reads_back_as_it_was(lock_of, make_manifest):
    lock = lock_of("node2", "node1", manifest=make_manifest())
    assert parse_lock(render_lock(lock), "x") == lock


def test_one_fact_a_line_sorted(lock_of):
    lines = render_lock(lock_of("node2", "node1")).splitlines()
    facts = [line.strip() for line in lines if line.startswith("   ")]
    assert len(facts) == sum(len(f) for f in lock_of("node1", "node2").hosts.values())
    assert facts[: len(facts) // 2] == sorted(
        facts[: len(facts) // 2], key=lambda f: f.split(":")[0]
    )
    assert lines.index(' "hosts": {') < lines.index('  "node1": {') < lines.index('  "node2": {')


def test_nothing_private_and_nothing_that_changes_by_itself(lock_of, make_facts):
    gpu = {"index": "0", "name": "H100", "uuid": "GPU-secret", "memory_used": "17"}
    text = render_lock(lock_of("node1", gpus=[gpu], boot_id="boot-secret", home_id="1:2"))
    facts = make_facts()
    for name in ("machine_id", "user", "home", "clock"):
        assert str(facts[name].value) not in text
    assert "secret" not in text
    assert not {"clock", "disk", "disks", "shm", "routes"} & set(LOCKED)


def test_what_is_unknown_is_left_out_and_what_is_absent_is_none(lock_of):
    lock = lock_of("node1", toolkit={"unknown": "nvcc: exit 1"}, gpu_driver={"absent": True})
    assert "toolkit" not in lock.hosts["node1"]
    assert lock.hosts["node1"]["gpu.driver"] is None


def changes(old, new, tmp_path):
    return plan_lock(tmp_path / "lock", old, new).changes


def test_the_same_hosts_again_leave_the_file_alone(lock_of, tmp_path):
    path = tmp_path / "zerofleet.lock.json"
    apply_lock(plan_lock(path, None, lock_of("node1", "node2")))
    before = path.read_text()
    later = lock_of("node1", "node2", written="2027-01-01T00:00:00+00:00")
    plan = plan_lock(path, read_lock(path), later)
    assert plan.empty
    apply_lock(plan)
    assert path.read_text() == before


def test_a_change_is_a_line_of_the_plan_and_one_of_the_diff(lock_of, tmp_path):
    old = lock_of("node1", gpu_driver="570.1")
    new = lock_of("node1", gpu_driver="580.2", written="2027-01-01T00:00:00+00:00")
    plan = plan_lock(tmp_path / "lock", old, new)
    assert str(plan).splitlines()[1:] == ["  node1: gpu.driver: 570.1 → 580.2"]
    pairs = zip(render_lock(old).splitlines(), plan.text.splitlines(), strict=True)
    assert [b.strip() for a, b in pairs if a != b] == [
        '"gpu.driver": "580.2",',
        '"written": "2027-01-01T00:00:00+00:00"',
    ]
    (step,) = plan.as_json()["phases"][0]["steps"]
    assert step["action"] == "record gpu.driver 580.2"


def test_memory_that_wobbles_is_not_a_change(lock_of, tmp_path):
    total = 512 << 30
    old = lock_of("node1", memory={"total": total})
    wobbling = lock_of("node1", memory={"total": total - (1 << 30)})
    assert changes(old, wobbling, tmp_path) == ()
    (change,) = changes(old, lock_of("node1", memory={"total": total // 2}), tmp_path)
    assert str(change) == "node1: memory: 512.0 GiB → 256.0 GiB"


def test_hosts_that_come_and_go_and_a_new_wheel(lock_of, make_manifest, tmp_path):
    new = lock_of("node1", "node3", manifest=make_manifest())
    found = changes(lock_of("node1", "node2"), new, tmp_path)
    assert [(change.host, change.name) for change in found] == [
        ("this checkout", "wheel"),
        ("node3", "hosts"),
        ("node2", "hosts"),
    ]


def test_no_lock_is_none_unless_it_is_needed(tmp_path):
    path = tmp_path / "zerofleet.lock.json"
    assert read_lock(path) is None
    with pytest.raises(ConfigError, match=r"no such file.*invoke lock"):
        read_lock(path, needed=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no JSON"),
        ("<<<<<<< HEAD\n{}", "no JSON"),
        ("[]", "schema list"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "written": 5, "hosts": {}}', "other keys or types"),
        ('{"schema": 1, "written": "x", "hosts": {"a": 1}}', "other keys or types"),
        ('{"schema": 1, "written": "x", "hosts": {"a": {"gpu.horn": 1}}}', "a: gpu.horn"),
    ],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path, text, found):
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_lock(path)
    assert found in caught.value.found
    assert "invoke lock" in caught.value.remedy


def test_a_folder_that_is_not_there_is_one_clear_error(lock_of, tmp_path):
    plan = plan_lock(tmp_path / "gone" / "lock", None, lock_of("node1"))
    with pytest.raises(ConfigError, match=r"No such file.*--lock-file"):
        apply_lock(plan)


def test_a_write_that_fails_leaves_the_old_lock(lock_of, tmp_path):
    path = tmp_path / "lock"
    path.mkdir()  # what can't be replaced
    with pytest.raises(ConfigError):
        apply_lock(plan_lock(path, None, lock_of("node1")))
    assert list(tmp_path.iterdir()) == [path]
    assert json.dumps(plan_lock(path, None, lock_of("node1")).as_json())
