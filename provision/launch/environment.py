"""The environment that a run's ranks get from the user, with what is secret kept apart.

Three places, the later one wins: this shell's variables of a few known prefixes, DeepSpeed's
``.deepspeed_env`` files, ``--env``. Nothing else of this machine's environment travels. A secret
reaches a host in a private file and is shown nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision.errors import ConfigError

#: What of the controller's own environment goes along.
PASSED = ("HF_", "WANDB_", "NCCL_", "TORCH_")
#: DeepSpeed's file, and where it looks for one; the later wins:
#: https://www.deepspeed.ai/getting-started/#multi-node-environment-variables
DEEPSPEED_ENV = ".deepspeed_env"

#: What else of its own shell a node that is started by hand takes: what facts would say instead.
STANDING = ("GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|(^|_)AUTH(_|$)", re.IGNORECASE)
#: Names that read like a secret's and are none: TOKENIZERS_PARALLELISM, a path to a token's file,
#: InfiniBand's partition key, whether the hub is to be shown the token that a login has left.
_NO_SECRET = re.compile(
    r"TOKENIZER|_(PATH|FILE)$|MAX_.*TOKENS|_PKEY$|DISABLE_IMPLICIT_TOKEN$", re.IGNORECASE
)
#: A pair of quotes around a whole value, with none of its kind inside.
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1""")
_USER_IN_URL = re.compile(r"://[^/@\s]+@")
#: Names that the launcher gives each rank → what says the same.
_OWNED = re.compile(
    r"(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|ROLE_.*|(LOCAL_|GROUP_)?WORLD_SIZE|NNODES"
    r"|NPROC_PER_NODE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|TORCH_ELASTIC_.*|PET_.*|ZEROFLEET_.*"
    r"|DS_ACCELERATOR|TORCH_EXTENSIONS_DIR|CUDA_VISIBLE_DEVICES)$"
)
_INSTEAD = {
    "CUDA_VISIBLE_DEVICES": "use --include",
    "MASTER_ADDR": "use --master-addr",
    "MASTER_PORT": "use --master-port",
    "NPROC_PER_NODE": "use --nproc",
}


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable. ``origin`` is where it was set; a secret's value is in no repr and no str."""

    name: str
    value: str = field(repr=False)
    origin: str

    @property
    def secret(self) -> bool:
        """Whether its name, or a user and password in its value, makes it one."""
        named = _SECRET.search(self.name) and not _NO_SECRET.search(self.name)
        return bool(named or _USER_IN_URL.search(self.value))

    def __str__(self) -> str:
        shown = "(secret: in a private file on each host)" if self.secret else self.value
        return f"{self.name}={shown}  # {self.origin}"


@dataclass(frozen=True, kw_only=True)
class RunEnviron:
    """What the ranks get. ``left_out`` says of this shell's variables which do not go, and why."""

    variables: tuple[Variable, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def plain(self) -> dict[str, str]:
        """What may be shown."""
        return {v.name: v.value for v in self.variables if not v.secret}

    @property
    def secret(self) -> dict[str, str]:
        """What may not."""
        return {v.name: v.value for v in self.variables if v.secret}


def parse_environ(
    shell: Mapping[str, str], files: Mapping[str, str], given: Mapping[str, str | None]
) -> RunEnviron:
    """The run's environment. Pure.

    ``shell``: the controller's; ``files``: text of ``.deepspeed_env`` files by path; ``given``:
    ``--env``, where None takes the value from the shell. Raises ConfigError for what can't be set.
    """
    found: dict[str, Variable] = {}
    left_out: list[str] = []
    for name, value in sorted(shell.items()):
        if not name.startswith(PASSED) or _OWNED.match(name):
            continue
        if value.startswith(("/", "~")) and name not in given:
            left_out.append(f"{name}: a path of this machine (--env {name} passes it)")
            continue
        found[name] = Variable(name=name, value=value, origin="this shell")
    for path, text in files.items():
        for name, value in _lines(path, text):
            found[name] = Variable(name=name, value=value, origin=path)
    for name, asked in given.items():
        wanted = shell.get(name) if asked is None else asked
        if wanted is None:
            raise ConfigError(
                f"--env {name}",
                found="no such variable in this shell",
                expected="NAME=VALUE, or a NAME that is set here",
                remedy=f"export it first, or write --env {name}=VALUE",
            )
        found[name] = Variable(name=name, value=wanted, origin="--env")
    for variable in found.values():
        _require_settable(variable)
    kept = tuple(found[name] for name in sorted(found))
    return RunEnviron(variables=kept, left_out=tuple(left_out))


def parse_own_shell(environ: RunEnviron, shell: Mapping[str, str]) -> RunEnviron:
    """The same for a node whose own shell this is: its paths are that node's, too. Pure.

    What the shell says goes over facts; files and --env go over it, as in parse_environ.
    """
    found = {variable.name: variable for variable in environ.variables}
    for name, value in shell.items():
        passed = name.startswith(PASSED) and not _OWNED.match(name)
        if value and name not in found and (passed or name in STANDING):
            found[name] = Variable(name=name, value=value, origin="this shell")
            _require_settable(found[name])
    return RunEnviron(variables=tuple(found[name] for name in sorted(found)))


def _lines(path: str, text: str) -> list[tuple[str, str]]:
    """NAME=VALUE lines; blank ones and comments are passed over.

    A pair of quotes around a value is none of it: DeepSpeed's own launcher hands the value to a
    shell (add_export in deepspeed/launcher/multinode_runner.py).
    """
    pairs = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}:{number}",
                found="a line that sets nothing",  # not the line: it may hold a secret
                expected="NAME=VALUE",
                remedy="correct or comment out that line",
            )
        quoted = _QUOTED.fullmatch(value)
        pairs.append((name, quoted[2] if quoted else value))
    return pairs


def _require_settable(variable: Variable) -> None:
    if not _NAME.fullmatch(variable.name):
        raise ConfigError(
            f"{variable.origin}: {variable.name!r}",
            found="no variable's name",
            expected="letters, digits and _",
            remedy="rename it",
        )
    if _OWNED.match(variable.name):
        raise ConfigError(
            f"{variable.origin}: {variable.name}",
            found="a value",
            expected="none: the launcher sets it for each rank",
            remedy=_INSTEAD.get(variable.name, "remove it"),
        )
    if "\0" in variable.value or "\n" in variable.value:
        raise ConfigError(
            f"{variable.origin}: {variable.name}",
            found="a line end or NUL in its value",
            expected="one line",
            remedy="write its value in one line",
        )


def parse_given(items: Sequence[str]) -> dict[str, str | None]:
    """``--env`` flags: NAME=VALUE, or NAME alone; ConfigError for a secret on a command line."""
    given: dict[str, str | None] = {}
    for item in items:
        name, equals, value = item.partition("=")
        variable = Variable(name=name, value=value, origin="--env")
        if equals and value and variable.secret:
            raise ConfigError(
                f"--env {name}",
                found="a secret on the command line, where every user of this machine reads it",
                expected="its name alone",
                remedy=f"export {name} in this shell, and give --env {name}",
            )
        given[name] = value if equals else None
    return given


def read_deepspeed_env(shell: Mapping[str, str], home: Path, here: Path) -> dict[str, str]:
    """Text of the files that DeepSpeed's own launcher would read, by path; home's first.

    Raises ConfigError for one that can't be read.
    """
    name = shell.get("DS_ENV_FILE") or DEEPSPEED_ENV
    found: dict[str, str] = {}
    for path in dict.fromkeys((home / name, here / name)):
        if not path.is_file():
            continue
        try:
            found[str(path)] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                str(path),
                found=error,
                expected="a readable text file",
                remedy="save it as UTF-8 text that this user may read, or remove it",
            ) from None
    return found


def read_run_environ(given: Mapping[str, str | None], here: Path) -> RunEnviron:
    """The environment of a run that is started in this shell, in the folder ``here``."""
    files = read_deepspeed_env(os.environ, Path("~").expanduser(), here)
    return parse_environ(os.environ, files, given)
