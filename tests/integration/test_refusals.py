"""What does not fit is refused in one line (host, found, expected, remedy), and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


def snapshot(fleet: Fleet) -> dict[str, tuple[int, int]]:
    """Everything of ours on the hosts, but for what lies deep inside an environment."""
    found = {}
    for host in fleet.hosts:
        for root, folders, names in os.walk(host.home):
            if (Path(root) / "pyvenv.cfg").exists():
                folders.clear()
            for name in [*folders, *names]:
                path = Path(root) / name
                stat = path.lstat()
                found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


@pytest.fixture
def refused(deployed: Fleet, zf_run: ZfRun):
    """Run a command that must be refused; its line. Nothing on the hosts may change."""

    def run(args: list[str], code: int) -> str:
        before = snapshot(deployed)
        done = zf_run([*args, "--json"], deployed.folder)
        assert snapshot(deployed) == before
        assert "Traceback" not in done.stderr + done.stdout
        assert done.returncode == code, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert (answer["ok"], answer["exit"]) == (False, code)
        lines = [
            line for line in done.stderr.splitlines() if line.startswith(("error:", "unknown:"))
        ]
        assert len(lines) == 1, done.stderr
        # What a script reads says the same as the line.
        bad = [f for f in answer.get("findings", []) if f["level"] in ("error", "unknown")]
        said = [answer["error"]] if "error" in answer else bad
        for part in said:
            assert part["found"] in lines[0]
            assert part["expected"] in lines[0]
            assert part["remedy"]
            assert part["remedy"] in lines[0]
        return lines[0]

    return run


@pytest.fixture
def host_file(deployed: Fleet, tmp_path: Path):
    """A hosts file with this text."""

    def write(text: str) -> str:
        path = tmp_path / "hosts.txt"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def ssh_config(deployed: Fleet, tmp_path: Path):
    """The fleet's ssh_config with something replaced."""

    def write(old: str, new: str) -> str:
        text = deployed.ssh_config.read_text()
        assert old in text
        path = tmp_path / "ssh_config"
        path.write_text(text.replace(old, new))
        return str(path)

    return write


@pytest.fixture
def odd_wheel(deployed: Fleet, tmp_path: Path):
    """A folder with the fleet's wheel, its name and manifest changed."""

    def make(name: tuple[str, str] = ("", ""), **changes: str) -> str:
        answer = next((deployed.folder / "wheels").glob("*.whl"))
        manifest = json.loads(answer.with_name(answer.name + ".json").read_text())
        wheel = tmp_path / answer.name.replace(*name) if name[0] else tmp_path / answer.name
        shutil.copyfile(answer, wheel)
        manifest.update(changes, wheel=wheel.name)
        wheel.with_name(wheel.name + ".json").write_text(json.dumps(manifest))
        return str(tmp_path)

    return make


def test_an_unreachable_host(refused, host_file) -> None:
    with socket.socket() as free:  # bound, so that nobody else listens there
        free.bind(("127.0.0.9", 0))
        port = free.getsockname()[1]
        line = refused(["deploy", "--hosts", host_file(f"node1\n127.0.0.9:{port}\n")], 3)
    assert f"127.0.0.9:{port}: ssh: found no SSH session" in line


def test_a_name_that_does_not_resolve(refused, host_file) -> None:
    line = refused(["hosts", "--hosts", host_file("node1\nno-such-host.invalid\n")], 3)
    assert "no address for the name no-such-host.invalid" in line


def test_an_unknown_host_key(refused, ssh_config, deployed: Fleet, tmp_path: Path) -> None:
    known = deployed.folder / "known_hosts"
    (tmp_path / "known").write_text(known.read_text().splitlines()[0] + "\n")
    line = refused(["deploy", "--ssh-config", ssh_config(str(known), str(tmp_path / "known"))], 3)
    assert "node2: ssh: found unknown host key" in line
    assert "--accept-new" in line


def test_a_changed_host_key_is_refused_even_with_accept_new(
    refused, ssh_config, deployed: Fleet, tmp_path: Path
) -> None:
    first, second = (deployed.folder / "known_hosts").read_text().splitlines()
    swapped = f"{first}\n{second.split()[0]} {' '.join(first.split()[1:])}\n"
    (tmp_path / "known").write_text(swapped)
    config = ssh_config(str(deployed.folder / "known_hosts"), str(tmp_path / "known"))
    line = refused(["hosts", "--ssh-config", config, "--accept-new"], 3)
    assert "node2: ssh: found a host key other than the known one" in line


def test_a_wrong_user(refused, host_file) -> None:
    line = refused(["deploy", "--hosts", host_file("node1\nnobody-here@node2\n")], 3)
    assert "node2: ssh: found login refused for nobody-here@127.0.0.3" in line


def test_a_wheel_for_another_python(refused, odd_wheel) -> None:
    wheels = odd_wheel(name=("cp311-cp311", "cp39-cp39"), python_tag="cp39")
    line = refused(["deploy", "--wheels", wheels], 1)
    assert "node1,node2: python: found" in line
    assert "expected 3.9 (the wheel is cp39)" in line


def test_a_wheel_for_another_torch(refused, odd_wheel) -> None:
    line = refused(["deploy", "--wheels", odd_wheel(torch="2.12.1+cpu")], 1)
    assert "node1,node2: torch: found a wheel built for torch 2.12.1+cpu" in line


def test_a_wheel_whose_bytes_are_not_those_of_its_manifest(refused, odd_wheel) -> None:
    line = refused(["deploy", "--wheels", odd_wheel(sha256="0" * 64)], 2)
    assert "sha256" in line


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.create_server(("127.0.0.2", 0)) as server:
        yield server.getsockname()[1]


def test_an_occupied_master_port(refused, occupied: int) -> None:
    line = refused(["train", "--zero", "2", "--master-port", str(occupied)], 1)
    assert f"node1: master port: found {occupied} in use by pid {os.getpid()}" in line


def test_a_read_only_output_folder(refused) -> None:
    line = refused(["train", "--zero", "2", "--output", "/proc/zerofleet/out"], 1)
    assert "node1,node2: output: found /proc:" in line
    assert "--output" in line


def test_zero_4(refused) -> None:
    assert "--zero: found 4, expected 1, 2 or 3" in refused(["train", "--zero", "4"], 2)


def test_an_offload_that_the_stage_does_not_have(refused) -> None:
    line = refused(["train", "--zero", "2", "--offload", "all"], 2)
    assert "offload with ZeRO stage 2: found all, expected none or optimizer" in line


def test_a_missing_model(refused) -> None:
    line = refused(["train", "--zero", "2", "--model", "/no/such/model"], 1)
    assert "node1,node2: model: found no such folder" in line


def test_a_malformed_row_with_file_and_line(refused, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    data.write_text(json.dumps(good) + '\n{"conversations": [}\n')
    line = refused(["train", "--zero", "2", "--data", str(data)], 1)
    assert f"node1,node2: data: found {data}:2:" in line


def test_a_duplicate_in_the_hosts_file(refused, host_file) -> None:
    path = host_file("node1\nnode2\nnode1\n")
    assert f"{path}:3: found node1 again" in refused(["deploy", "--hosts", path], 2)


def test_an_unknown_flag_of_the_trainer_is_refused_before_a_run(refused) -> None:
    line = refused(["train", "--zero", "2", "--set", "output_dir=/x"], 2)
    assert "use --output" in line


def test_a_dry_run_shows_the_plan_and_changes_nothing(deployed: Fleet, zf_run: ZfRun) -> None:
    before = snapshot(deployed)
    done = zf_run(
        ["train", "--zero", "3", "--offload", "all", "--dry-run", "--json"], deployed.folder
    )
    assert done.returncode == 0, done.stderr
    assert snapshot(deployed) == before
    answer = json.loads(done.stdout)
    assert [phase["name"] for phase in answer["plan"]["phases"]] == ["run folder", "start"]
    ranks = [node["environ"]["NODE_RANK"] for node in answer["launch"]["nodes"]]
    assert ranks == ["0", "1"]
    assert "zero3_offload.json" in answer["launch"]["nodes"][0]["command"]
