from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from provision.demo import fleet as demo
from provision.errors import ConfigError


@pytest.fixture
def described(tmp_path: Path) -> Iterator[demo.Fleet]:
    """Two hosts that do not run."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""], text=True)
    ended.wait()
    hosts = [
        demo.DemoHost(
            name=f"node{i}", address=f"127.0.0.{i + 1}", port=2200 + i, home=folder, server=ended
        )
        for i in (1, 2)
    ]
    with (folder / "fleet.json").open("w") as guard:
        yield demo.Fleet(folder=folder, hosts=tuple(hosts), guard=guard)


def test_openssh_reads_the_ssh_config(described: demo.Fleet) -> None:
    described.ssh_config.write_text(demo.render_ssh_config(described, user="me"))
    ask = ["ssh", "-G", "-F", str(described.ssh_config), "node2"]
    lines = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
    got = dict(line.split(" ", 1) for line in lines)
    assert (got["hostname"], got["port"], got["user"]) == ("127.0.0.3", "2202", "me")
    assert got["identityfile"] == f"{described.folder}/keys/id"
    assert got["userknownhostsfile"] == f"{described.folder}/known_hosts"
    assert got["stricthostkeychecking"] == "true"


def test_settings_are_absolute_and_can_be_added_to(described: demo.Fleet) -> None:
    text = demo.render_settings(described, {"zero": 3, "wheels": "/elsewhere"})
    got = yaml.safe_load(text)["zerofleet"]
    assert got["hosts"] == f"{described.folder}/hosts.txt"
    assert (got["accelerator"], got["zero"], got["wheels"]) == ("cpu", 3, "/elsewhere")


def test_settings_that_do_not_exist_are_not_written(described: demo.Fleet) -> None:
    from provision.settings import make_settings

    config = yaml.safe_load(demo.render_settings(described, {}))["zerofleet"]
    assert make_settings(config, {}, Path("/")).hosts == described.hostfile


def test_a_run_takes_a_port_that_nobody_uses() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        assert demo.read_run_port(number - 1, hosts=2) != number - 1  # the second host's
        assert demo.read_run_port(number, hosts=1) not in (number, 0)
    with socket.socket() as free:
        free.bind(("", 0))
        number = free.getsockname()[1]
        assert demo.read_run_port(number, hosts=1) != number
    assert demo.read_run_port(number, hosts=1) in range(number, number + 1000, 10)


def test_tasks_file_gives_the_checkouts_tasks(tmp_path: Path) -> None:
    checkout = tmp_path / "check out's"
    checkout.mkdir()
    (checkout / "beside.py").write_text("VALUE = 5\n")
    (checkout / "tasks.py").write_text("import beside\ndef get():\n    return beside.VALUE\n")
    program = demo.render_tasks(checkout) + "assert get() == 5\n"
    assert len(demo.render_tasks(checkout).splitlines()) == 3
    subprocess.run([sys.executable, "-c", program], check=True)


def test_someone_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"something else there.*--folder"):
        demo.apply_claim(tmp_path)
    assert (tmp_path / "tasks.py").read_text() == "mine"


def test_a_folder_is_used_by_one_fleet_at_a_time(tmp_path: Path) -> None:
    with (
        demo.apply_claim(tmp_path / "demo"),
        pytest.raises(ConfigError, match="still runs there"),
    ):
        demo.apply_claim(tmp_path / "demo")
    demo.apply_claim(tmp_path / "demo").close()
    assert json.loads((tmp_path / "demo" / "fleet.json").read_text()) == {}


def test_a_port_is_kept_while_it_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo.read_free_port("127.0.0.1", port) == 0
    assert demo.read_free_port("127.0.0.1", port) == port


def test_an_address_that_is_not_this_machines_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="run the demo on Linux"):
        demo.read_free_port("192.0.2.1", 0)  # TEST-NET-1, RFC 5737


def test_pip_cache_is_the_users_own() -> None:
    assert demo.read_pip_cache({"PIP_CACHE_DIR": "/p"}) == Path("/p")
    assert demo.read_pip_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/pip")
    assert demo.read_pip_cache({}) == Path.home() / ".cache" / "pip"
