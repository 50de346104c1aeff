"""Settings of a command: its flags, over invoke.yaml's ``zerofleet:`` block, over the defaults.

Invoke reads invoke.yaml beside tasks.py, files named with ``-f``, and ``INVOKE_ZEROFLEET_*``
variables (https://docs.pyinvoke.org/en/stable/concepts/configuration.html). Pure but for
``read_settings``' look at the current folder, which relative local paths start from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from provision.allowed import (
    expanded,
    require_existing,
    require_kind,
    require_known,
    require_plain,
)
from provision.errors import ConfigError
from provision.numbers import parse_number, parse_rate
from provision.places import CHECKOUT
from provision.setting_kinds import Kind, Setting
from provision.setting_table import DEFAULTS, SETTINGS

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
    # Hosts, and how they are reached.
    hosts: Path
    ssh_config: Path | None
    accept_new: bool
    connect_timeout: int
    answer_timeout: int
    workers: int
    wide: bool
    fact: str | None
    include: str | None
    exclude: str | None
    # A build.
    accelerator: str | None
    ops: str | None
    arch: str | None
    toolkit: str
    cpu: str
    torch: str
    version: str | None
    source: str | None
    with_source: str | None
    python: str | None
    jobs: str | None
    on: str | None
    # Wheels, and the environment around them.
    wheels: Path
    wheel: str | None
    env_source: str
    env_python: str | None
    env_lock: Path | None
    packages: str | None
    requirements: Path | None
    upgrade: bool
    glibc: str | None
    # A deploy, and what it left.
    wait: int
    partial: bool
    anew: bool
    limit: str | None
    to: str | None
    keep_last: int
    pushed: bool
    with_runs: bool
    check: bool
    what: Path | None
    # The drift lock.
    locked: bool
    lock_file: Path
    allow_drift: str | None
    # What a run is.
    model: str | None
    data: str | None
    output: str | None
    zero: int
    zero_auto: bool
    offload: str
    deepspeed: Path | None
    recipe: Path
    set: Mapping[str, Any]
    script: Path | None
    code: Path
    env: tuple[str, ...]
    env_set: Mapping[str, Any]
    # How its ranks start.
    master_addr: str | None
    master_port: int
    nproc: int | None
    launcher: str
    nnodes: int | None
    gpus_per_node: int | None
    numa_binding: str
    deep: bool
    print_commands: bool
    # How it goes on and ends.
    detach: bool
    retries: int
    retry_within: int
    resume: str | None
    grace: int
    grace_after_failure: int
    lost_after: int
    start_within: int
    # Runs that were started.
    runs: Path
    run: str | None
    follow: bool
    rank: int | None
    host: str | None
    tail: int | None
    checkpoints: bool
    # A Slurm job.
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
    # Memory of a run.
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
    # What goes into a run, and what came out.
    rows: str | None
    result: str | None
    checkpoint: str | None
    dtype: str | None
    universal: bool
    prompt: str | None
    max_new_tokens: int


def make_settings(config: Mapping[str, Any], flags: Mapping[str, Any], folder: Path) -> Settings:
    """Flags (None: not given) over ``config`` over DEFAULTS; local paths start from ``folder``.

    Raises ConfigError for a setting that does not exist (with the closest one that does), or one
    that is no number where a number is needed.
    """
    for key, value in config.items():
        require_known(key)
        require_kind(key, value)
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
        require_plain(key, list(value) if isinstance(value, tuple) else value)
    for key, setting in SETTINGS.items():
        if values[key] is not None:
            values[key] = _parse(key, setting, values[key], folder)
    require_existing(values)
    values["lock_file"] = values["lock_file"] or values["hosts"].parent / LOCK_NAME
    return Settings(**{field.name: values[field.name] for field in fields(Settings)})


def _parse(key: str, setting: Setting, value: Any, folder: Path) -> Any:
    """A value as its setting's kind has it; ConfigError if it can't be that."""
    match setting.kind:
        case Kind.NUMBER:
            return parse_number(key, value, setting.least, setting.most)
        case Kind.PATH:
            value = _recipe_path(str(value)) if key == "recipe" else str(value)
            return folder / expanded(key, value)
        case Kind.RATE:
            parse_rate(str(value))
            return str(value)
        case Kind.COMMAS | Kind.WORDS:  # YAML reads arch: 8.0 as a number
            between = "," if setting.kind is Kind.COMMAS else " "
            return between.join(map(str, value)) if isinstance(value, list) else str(value)
    return value


def _recipe_path(named: str) -> str:
    """One of ours by its bare name, as in orpo; a file of such a name is ./orpo."""
    ours = re.fullmatch(r"\w+", named)
    return str(CHECKOUT / "recipes" / f"{named}.yaml") if ours else named


def _pairs(given: Any, flag: str = "set") -> dict[str, Any]:
    """``set`` as a mapping: it is one in invoke.yaml, and a list of key=value from flags."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if flag != "set":
        raise ConfigError(
            f"invoke.yaml, {flag}",
            found=given,
            expected="NAME: value lines",
            remedy=f"write them below {flag}:, one a line, indented",
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
    """Settings of a command run in the current folder; ConfigError if that is gone."""
    try:
        folder = Path.cwd()
    except OSError as error:
        raise ConfigError(
            "the current folder", found=error, expected="one that exists", remedy="cd to another"
        ) from None
    return make_settings(config, flags, folder)
