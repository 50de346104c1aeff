from __future__ import annotations

from pathlib import Path

import pytest

from provision.demo.login import login_environ, read_user_pip_config


def environ(inherited: dict[str, str], cache: Path | None = None) -> dict[str, str]:
    return login_environ(inherited, home=Path("/h"), user="me", cache=cache, prefix="/co/.venv")


def test_machine_settings_reach_a_login() -> None:
    got = environ({"PIP_INDEX_URL": "u", "https_proxy": "p", "PATH": "/usr/bin"})
    assert got["PIP_INDEX_URL"] == "u"
    assert got["https_proxy"] == "p"


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "PYTHONPATH", "INVOKE_X", "SSH_AUTH_SOCK"])
def test_the_starting_process_does_not(name: str) -> None:
    assert name not in environ({name: "x"})


def test_the_controllers_own_python_is_not_on_the_path() -> None:
    path = "/other/bin:/co/.venv/bin:/usr/bin:/bin"
    assert environ({"PATH": path, "VIRTUAL_ENV": "/other"})["PATH"] == "/usr/bin:/bin"


def test_home_and_user_are_the_hosts() -> None:
    got = environ({"HOME": "/root", "USER": "root", "SHELL": "/usr/bin/fish"}, Path("/c"))
    assert (got["HOME"], got["PWD"], got["USER"], got["SHELL"]) == ("/h", "/h", "me", "/bin/sh")
    assert got["PIP_CACHE_DIR"] == "/c"


def test_the_users_pip_configuration_is_found_although_home_differs(tmp_path: Path) -> None:
    assert read_user_pip_config({"HOME": str(tmp_path)}) == {}
    config = tmp_path / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\n")
    assert read_user_pip_config({"HOME": str(tmp_path)}) == {"PIP_CONFIG_FILE": str(config)}
