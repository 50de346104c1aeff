"""A question through `ssh`: what it is told, and what comes of answers that fail or don't come."""

from __future__ import annotations

import os
import shlex
import subprocess
import time

import pytest

from provision.inventory import Host, parse_inventory
from provision.openssh import apply_question, ssh_argv

#: In place of ssh: the host's name is the word before the last, the command the last.
FAKE = """\
#!/bin/sh
while test $# -gt 2; do shift; done
case $1 in
    fails) exit 255;;
    hangs) echo $$ > "$TOLD/pid"; exec sleep 600;;
esac
eval "exec $2 $1"
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A folder that the stand-in for ssh writes to."""
    (tmp_path / "ssh").write_text(FAKE)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path))
    return tmp_path


def ask(text, argv=("echo", "it's"), at_once=2, seconds=240.0):
    inventory = parse_inventory(text, "hosts.txt")
    with apply_question(inventory, argv, config=None, at_once=at_once) as question:
        return question.gather(seconds)


def test_every_host_answers_also_where_they_are_more_than_at_once(told):
    names = [f"node{number}" for number in range(5)]
    assert ask("\n".join(names)) == {name: f"it's {name}\n" for name in names}


def test_a_host_that_fails_has_no_answer_and_ends_the_waiting(told):
    assert ask("node1\nfails\nnode2", at_once=3) == {"node1": "it's node1\n"}


def test_a_host_that_is_late_is_left_and_its_ssh_ended(told):
    began = time.monotonic()
    inventory = parse_inventory("hangs\nnode1", "hosts.txt")
    with apply_question(inventory, ["echo"], config=None, at_once=2) as question:
        while not (told / "pid").exists() or not (told / "pid").read_text().strip():
            os.sched_yield()
        assert question.gather(0.0) == {}
    assert time.monotonic() - began < 240
    with pytest.raises(ProcessLookupError):
        os.kill(int((told / "pid").read_text()), 0)


def test_without_openssh_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask("node1\nnode2") == {}


NODE1 = Host(name="node1")


def settings_of(config, host=NODE1):
    """What OpenSSH itself makes of it: `ssh -G` says, and connects to nobody."""
    _, *rest = ssh_argv(host, config, ["true"])
    done = subprocess.run(["ssh", "-G", *rest], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_the_users_own_configuration_makes_it_no_less_strict(tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "Host *\nStrictHostKeyChecking no\nBatchMode no\nUpdateHostKeys yes\nControlMaster auto\n"
        "VerifyHostKeyDNS yes\nNoHostAuthenticationForLocalhost yes\nForwardAgent yes\n"
        "RemoteCommand date\nRequestTTY force\nLocalForward 8080 localhost:80\nUser somebody\n"
    )
    found = settings_of(config)
    assert found["user"] == "somebody"
    assert found["stricthostkeychecking"] == "true"
    assert found["batchmode"] == "yes"
    assert found["controlmaster"] == "false"
    assert found["verifyhostkeydns"] == "false"
    assert found["nohostauthenticationforlocalhost"] == "no"
    assert found["forwardagent"] == "no"
    assert found["updatehostkeys"] == "false"
    assert found["requesttty"] == "false"
    assert found["clearallforwardings"] == "yes"
    assert found.get("remotecommand", "none") == "none"


def test_user_and_port_of_the_hosts_file_count(tmp_path):
    (tmp_path / "config").write_text("")
    found = settings_of(tmp_path / "config", Host(name="node1", user="ana", port=2222))
    assert (found["user"], found["port"], found["hostname"]) == ("ana", "2222", "node1")


def test_the_command_is_quoted_once_for_the_hosts_shell():
    argv = ssh_argv(Host(name="node1"), None, ["sh", "-c", "echo 'a b'"])
    assert argv[-3:-1] == ("--", "node1")
    assert shlex.split(argv[-1]) == ["sh", "-c", "echo 'a b'"]
