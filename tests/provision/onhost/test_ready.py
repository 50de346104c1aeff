"""ready.py as it runs on a host: real files, real sockets on this machine's loopback."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from pathlib import Path

import pytest

import provision.onhost

PATH = Path(provision.onhost.__file__).parent / "ready.py"


@pytest.fixture(scope="module")
def ready():
    spec = importlib.util.spec_from_file_location("ready", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_output_folder_that_can_be_made_is_writable_and_stays_unmade(ready, tmp_path):
    answer = ready.output_folder(str(tmp_path / "a" / "b"))
    assert answer["nearest"] == str(tmp_path)
    assert answer["free"] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_or_a_pseudo_file_system_is_not(ready, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "error" in ready.output_folder(str(tmp_path / "file" / "out"))
    assert "error" in ready.output_folder("/proc/zerofleet/out")


def make_model(folder, weights=b"w" * 1000):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_model_folder_has_config_and_weights(ready, tmp_path):
    assert ready.model_folder(str(make_model(tmp_path / "m"))) == {"bytes": 1000}
    assert ready.model_folder(str(tmp_path / "nothing")) == {"error": "no such folder"}
    assert ready.model_folder(str(tmp_path)) == {"error": "no config.json in it"}


def test_git_lfs_pointers_are_not_weights(ready, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    answer = ready.model_folder(str(make_model(tmp_path / "m", pointer)))
    assert "git-lfs pointer" in answer["error"]


def test_a_hub_name_is_looked_for_in_the_cache(ready, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert ready.model_folder("Qwen/Qwen3-0.6B") == {"hub": True, "cached": False}
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert ready.model_folder("Qwen/Qwen3-0.6B") == {"hub": True, "cached": True}


def start_listener(ready, port, token, dials, capsys):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ready.listen(port, token, dials)))
    thread.start()
    return thread, answers


def dial_until_up(ready, port, token):
    while True:  # bounded by pytest's own timeout
        answer = ready.dial("127.0.0.1", port, token)
        if "refused" not in str(answer.get("error", "")).lower():
            return answer


def test_a_dial_reaches_the_listener(ready, port, capsys):
    thread, answers = start_listener(ready, port, "t0ken", 1, capsys)
    answer = dial_until_up(ready, port, "t0ken")
    thread.join()
    assert answer["resolved"] == ["127.0.0.1"]
    assert answer["seconds"] < 5
    assert answers == [{"came": 1}]


def test_something_else_on_the_port_is_not_taken_for_ours(ready, port):
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        answer = ready.dial("127.0.0.1", port, "t0ken")
        thread.join()
    assert answer["error"] == "something else answered on that port"


def test_an_occupied_port_names_its_holder(ready, port):
    with socket.create_server(("127.0.0.1", port)):
        answer = ready.listen(port, "t", 1)
    assert answer["error"].startswith("in use by pid ")


def test_a_closed_port_and_an_unknown_name_say_which(ready, port):
    assert "refused" in ready.dial("127.0.0.1", port, "t")["error"].lower()
    assert "does not resolve" in ready.dial("no-such-host.invalid", port, "t")["error"]


def test_paths_answers_only_what_was_asked(ready, tmp_path):
    answer = ready.paths({"output": str(tmp_path), "model": ""})
    assert list(answer) == ["output"]
    json.dumps(answer)
