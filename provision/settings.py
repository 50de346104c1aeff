"""Settings of a command: its flags, over invoke.yaml's ``zerofleet:`` block, over the defaults.

Invoke reads invoke.yaml beside tasks.py, files named with ``-f``, and ``INVOKE_ZEROFLEET_*``
variables (https://docs.pyinvoke.org/en/stable/concepts/configuration.html). Pure but for
``read_settings``' look at the current folder, which relative local paths start from.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from provision.defaults import CHECKOUT, DEFAULTS, EXISTING
from provision.errors import ConfigError
from provision.numbers import parse_number, parse_rate

__all__ = ["CHECKOUT", "DEFAULTS", "LOCK_NAME", "Settings", "make_settings", "read_settings"]

#: The drift lock, beside the hosts file unless ``lock_file`` names another.
LOCK_NAME = "zerofleet.lock.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one command, typed. Local paths are absolute; paths on hosts are text.

    ``given`` names those that were flags of this command line. ``env`` are the flags --env,
    ``env_set`` invoke.yaml's own mapping.
    """

    given: frozenset[str]
    hosts: Path
    ssh_config: Path | None
    accept_new: bool
    connect_timeout: int
    answer_timeout: int
    wide: bool
    fact: str | None
    workers: int
    wheels: Path
    wheel: str | None
    env_source: str
    env_python: str | None
    env_lock: Path | None
    packages: str | None
    requirements: Path | None
    upgrade: bool
    glibc: str | None
    runs: Path
    accelerator: str | None
    ops: str | None
    arch: str | None
    toolkit: str
    version: str | None
    source: str | None
    python: str | None
    jobs: str | None
    on: str | None
    with_source: str | None
    torch: str
    cpu: str
    zero: int
    zero_auto: bool
    offload: str
    deepspeed: Path | None
    method: str | None
    objective: str | None
    gpus: str | None
    nodes: str | None
    gpu_memory: str | None
    host_memory: str | None
    seq: str | None
    batch: str | None
    accum: str | None
    checkpointing: str | None
    attn: str | None
    precision: str | None
    lora_rank: str | None
    model: str | None
    data: str | None
    what: Path | None
    rows: str | None
    result: str | None
    checkpoint: str | None
    dtype: str | None
    universal: bool
    prompt: str | None
    max_new_tokens: int
    limit: str | None
    output: str | None
    recipe: Path
    set: Mapping[str, Any]
    master_addr: str | None
    master_port: int
    script: Path | None
    code: Path
    include: str | None
    exclude: str | None
    nproc: int | None
    launcher: str
    nnodes: int | None
    gpus_per_node: int | None
    env: tuple[str, ...]
    env_set: Mapping[str, Any]
    print_commands: bool
    locked: bool
    deep: bool
    wait: int
    partial: bool
    to: str | None
    keep_last: int
    pushed: bool
    with_runs: bool
    check: bool
    run: str | None
    follow: bool
    rank: int | None
    host: str | None
    tail: int | None
    detach: bool
    retries: int
    resume: str | None
    grace: int
    grace_after_failure: int
    lost_after: int
    start_within: int
    numa_binding: str
    checkpoints: bool
    lock_file: Path
    allow_drift: str | None
    slurm: str | bool | None
    shared: Path | None
    time: object
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    job_name: str | None
    cpus_per_task: str | None
    mem: str | None
    exclusive: bool
    sbatch: tuple[str, ...]
    lead: int
    restarts: int | None
    no_preflight: bool
    file: Path | None
    submit: bool


_PATHS = {"hosts", "what", "ssh_config", "wheels", "runs", "recipe", "lock_file", "script", "code"}
_PATHS |= {"deepspeed", "shared", "file", "env_lock", "requirements"}
_LISTS = {"ops", "allow_drift", "arch", "packages", "glibc"}
#: Embeddings, overrides and isolates: https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_COUNTS = {"rank", "tail", "nproc", "nnodes", "gpus_per_node", "restarts"}
_NUMBERS = {"connect_timeout", "answer_timeout", "workers", "zero", "master_port"}
_NUMBERS |= {"max_new_tokens", "wait", "keep_last", "retries", "lead"}
_NUMBERS |= {"grace", "grace_after_failure", "lost_after", "start_within"}


def make_settings(config: Mapping[str, Any], flags: Mapping[str, Any], folder: Path) -> Settings:
    """Flags (None: not given) over ``config`` over DEFAULTS; local paths start from ``folder``.

    Raises ConfigError for a setting that does not exist (with the closest one that does), or one
    that is no number where a number is needed.
    """
    for key in config:
        _require_known(key)
    values = dict(DEFAULTS)
    values.update({key: value for key, value in config.items() if value is not None})
    # A switch that is off was not given: invoke.yaml may still turn it on.
    given = {
        k: v for k, v in flags.items() if v is not None and v is not False and v not in ([], ())
    }
    values.update({key: value for key, value in given.items() if key != "set"})
    values["set"] = {**_pairs(config.get("set")), **_pairs(flags.get("set"))}
    values["given"] = frozenset(given)
    values["env"] = tuple(flags.get("env") or ())
    values["env_set"] = _pairs(config.get("env"), "env")
    values["sbatch"] = tuple(map(str, values["sbatch"]))
    values["zero_auto"] = values["zero"] == "auto"
    if values["zero_auto"]:  # until hosts are known; a stage that the offload asked for can have
        values["zero"] = 3 if values["offload"] == "all" else 2
    for key, value in values.items():
        _require_plain(key, list(value) if isinstance(value, tuple) else value)
    for key in _NUMBERS | {key for key in _COUNTS if values[key] is not None}:
        values[key] = parse_number(key, values[key])
    values["limit"] = None if values["limit"] is None else str(values["limit"])
    parse_rate(values["limit"])
    _require_existing(values)
    values["recipe"] = _recipe_path(str(values["recipe"]))
    for key in _PATHS:
        if values[key] is not None:
            values[key] = folder / Path(str(values[key])).expanduser()
    values["lock_file"] = values["lock_file"] or values["hosts"].parent / LOCK_NAME
    for key in _LISTS:
        if isinstance(values[key], list):
            values[key] = (" " if key == "packages" else ",").join(map(str, values[key]))
        elif values[key] is not None:
            values[key] = str(values[key])  # YAML reads arch: 8.0 as a number
    return Settings(**{field.name: values[field.name] for field in fields(Settings)})


def _require_existing(values: Mapping[str, Any]) -> None:
    """--env-python is of no use to other sources: it was meant to be."""
    if "env_python" in values["given"] and values["env_source"] != EXISTING:
        raise ConfigError(
            "--env-python",
            found=f"it with --env-source {values['env_source']}",
            expected="--env-source existing",
            remedy="add that, or leave it out",
        )


def _recipe_path(named: str) -> str:
    """One of ours by its bare name, as in orpo; a file of such a name is ./orpo."""
    ours = re.fullmatch(r"\w+", named)
    return str(CHECKOUT / "recipes" / f"{named}.yaml") if ours else named


def _require_known(key: str) -> None:
    if key not in DEFAULTS:
        near = difflib.get_close_matches(key, DEFAULTS, n=1)
        raise ConfigError(
            "invoke.yaml, zerofleet",
            found=f"unknown setting {key!r}",
            expected=", ".join(DEFAULTS),
            remedy=f"did you mean {near[0]!r}?" if near else "remove it",
        )


def _require_plain(key: str, value: Any) -> None:
    """Refuse what a terminal obeys, ends a line, or is no character at all: Unicode's categories
    of control and separator characters, surrogates, and marks that change the direction of text.
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (odd := [c for c in text if _is_odd(c)]):
            raise ConfigError(
                f"--{key.replace('_', '-')}",
                found=ascii(text[:200]),
                expected=f"no {odd[0]!a} in it",
                remedy="correct it; rename the file or folder where it is named so",
            )


def _is_odd(character: str) -> bool:
    odd = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return odd or unicodedata.bidirectional(character) in _DIRECTIONS


def _pairs(given: Any, flag: str = "set") -> dict[str, Any]:
    """``set`` as a mapping: it is one in invoke.yaml, and a list of key=value from flags."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if flag != "set":
        raise ConfigError(
            f"invoke.yaml, {flag}", found=given, expected="NAME: value lines", remedy="correct it"
        )
    pairs = {}
    for item in given:
        key, equals, value = str(item).partition("=")
        if not equals or not key:
            raise ConfigError(
                "--set", found=repr(item), expected="key=value", remedy="as in --set max_steps=50"
            )
        pairs[key.replace("-", "_")] = value
    return pairs


def read_settings(config: Mapping[str, Any], **flags: Any) -> Settings:
    """Settings of a command run in the current folder."""
    return make_settings(config, flags, Path.cwd())
