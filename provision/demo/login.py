"""What a login on a demo host sees: the machine's environment, with a home folder of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Variables of the process that starts the host, which a real login would not have.
DROPPED = ("INVOKE_", "PYTHON", "SSH_", "VIRTUAL_ENV", "ZEROFLEET_")


def login_environ(
    inherited: Mapping[str, str], *, home: Path, user: str, cache: Path | None, prefix: str
) -> dict[str, str]:
    """The environment a login on this host gets.

    Inherited, so that the machine's own proxy and pip settings work, less what belongs to the
    process that started the host: its virtual environment (``prefix``) is not on PATH here.
    """
    environ = {k: v for k, v in inherited.items() if not k.startswith(DROPPED)}
    foreign = {f"{prefix}/bin", inherited.get("VIRTUAL_ENV", prefix) + "/bin"}
    path = [p for p in inherited.get("PATH", os.defpath).split(":") if p not in foreign]
    environ |= {"HOME": str(home), "USER": user, "LOGNAME": user, "SHELL": "/bin/sh"}
    environ |= {"PATH": ":".join(path), "PWD": str(home)}
    if cache:
        environ["PIP_CACHE_DIR"] = str(cache)
    return environ


def read_user_pip_config(environ: Mapping[str, str]) -> dict[str, str]:
    """PIP_CONFIG_FILE for a host whose HOME hides the user's own pip configuration, if any.

    The files' places: https://pip.pypa.io/en/stable/topics/configuration/#location
    """
    home = Path(environ.get("HOME", "~")).expanduser()
    xdg = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    found = [p for p in (xdg / "pip" / "pip.conf", home / ".pip" / "pip.conf") if p.is_file()]
    return {"PIP_CONFIG_FILE": str(found[0])} if found else {}
