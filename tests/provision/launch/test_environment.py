"""What the ranks get of the user's environment, and that secrets are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.environment import (
    Variable,
    parse_environ,
    parse_given,
    parse_own_shell,
    read_deepspeed_env,
)


def test_only_known_prefixes_leave_this_shell_and_no_path_of_this_machine() -> None:
    shell = {
        "HF_ENDPOINT": "https://hub.example",
        "HF_HOME": "/data/hf",
        "NCCL_DEBUG": "INFO",
        "TORCH_EXTENSIONS_DIR": "/x",
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MASTER_ADDR": "elsewhere",
    }
    found = parse_environ(shell, {}, {})
    assert found.plain == {"HF_ENDPOINT": "https://hub.example", "NCCL_DEBUG": "INFO"}
    assert found.secret == {}
    assert found.left_out == ("HF_HOME: a path of this machine (--env HF_HOME passes it)",)
    assert parse_environ(shell, {}, {"HF_HOME": None}).plain["HF_HOME"] == "/data/hf"


def test_the_later_place_wins_and_is_named() -> None:
    files = {"~/.deepspeed_env": "NCCL_A=1\n# no\n\nNCCL_B=a=b\n", "./.deepspeed_env": "NCCL_B=2"}
    found = parse_environ({"NCCL_A": "0", "NCCL_C": "0"}, files, {"NCCL_C": "3", "MINE": "4"})
    assert [str(v) for v in found.variables] == [
        "MINE=4  # --env",
        "NCCL_A=1  # ~/.deepspeed_env",
        "NCCL_B=2  # ./.deepspeed_env",
        "NCCL_C=3  # --env",
    ]


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "x", True),
        ("WANDB_API_KEY", "x", True),
        ("MY_PASSWORD", "x", True),
        ("HF_ENDPOINT", "https://user:pw@hub.example", True),
        ("HF_ENDPOINT", "https://hub.example/@me", False),
        ("TOKENIZERS_PARALLELISM", "x", False),
        ("HF_TOKEN_PATH", "x", False),
        ("MAX_NEW_TOKENS", "1", False),
        ("NCCL_IB_PKEY", "1", False),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", False),
    ],
)
def test_what_is_secret(name: str, value: str, secret: bool) -> None:
    assert Variable(name=name, value=value, origin="").secret is secret


def test_a_secret_is_in_no_text() -> None:
    found = parse_environ({"HF_TOKEN": "canary"}, {}, {})
    assert found.secret == {"HF_TOKEN": "canary"}
    assert "canary" not in f"{found!r}{found.variables[0]}{found.plain}"


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ({}, {"RANK": "0"}, "--env: RANK: found a value, expected none"),
        ({}, {"CUDA_VISIBLE_DEVICES": "0"}, "use --include"),
        ({"f": "MASTER_ADDR=x"}, {}, "f: MASTER_ADDR: .*use --master-addr"),
        ({"f": "A=1\ncanary"}, {}, "f:2: found a line that sets nothing"),
        ({}, {"NOT_SET": None}, "--env NOT_SET: found no such variable"),
        ({}, {"A B": "1"}, "no variable's name"),
        ({}, {"A": "1\n2"}, "a line end"),
    ],
)
def test_what_can_not_be_set(files, given, message) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_environ({}, files, given)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a"', "a"),
        ("'a b'", "a b"),
        ('""', ""),
        ('"it\'s"', "it's"),
        ('"a","b"', '"a","b"'),
        ('a"', 'a"'),
        ("\"a'", "\"a'"),
    ],
)
def test_quotes_around_a_whole_value_are_none_of_it(written: str, value: str) -> None:
    assert parse_environ({}, {"f": f"NCCL_A={written}"}, {}).plain == {"NCCL_A": value}


def test_a_nodes_own_shell_goes_over_facts_and_under_what_was_given() -> None:
    shell = {
        "GLOO_SOCKET_IFNAME": "bond0",
        "OMP_NUM_THREADS": "3",
        "TOKENIZERS_PARALLELISM": "",
        "HF_HOME": "/data/hub",
        "NCCL_DEBUG": "WARN",
        "PYTHONPATH": "/x",
        "TORCH_EXTENSIONS_DIR": "/e",
    }
    found = parse_environ(shell, {"f": "NCCL_DEBUG=INFO"}, {"OMP_NUM_THREADS": "4"})
    assert found.plain == {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "4"}
    own = parse_own_shell(found, shell)
    assert own.plain == {
        "GLOO_SOCKET_IFNAME": "bond0",
        "HF_HOME": "/data/hub",
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "4",
    }
    assert own.left_out == ()


def test_env_flags() -> None:
    assert parse_given(["A=b=c", "HF_TOKEN", "E="]) == {"A": "b=c", "HF_TOKEN": None, "E": ""}
    with pytest.raises(ConfigError, match="a secret on the command line") as error:
        parse_given(["WANDB_API_KEY=canary"])
    assert "canary" not in str(error.value)


def test_deepspeeds_files_where_it_looks_for_them(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
        (folder / ".deepspeed_env").write_text(folder.name)
    assert list(read_deepspeed_env({}, home, here).values()) == ["home", "here"]
    (here / "mine").write_text("x")
    assert read_deepspeed_env({"DS_ENV_FILE": "mine"}, home, here) == {str(here / "mine"): "x"}
