"""The manual form: a person stands on each node and starts that node's part of a run there.

``NODE_RANK=1 invoke node 3 2 4 192.168.1.100 29500`` is [zero] [nnodes] [gpus] [addr] [port], as
shell scripts around torchrun have long taken them; what is not given comes from environment
variables of the usual names, then from defaults. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.settings import Settings

#: The positional arguments, in order: setting → the variable that stands for it, and its default.
POSITIONS: Mapping[str, tuple[str, str]] = {
    "zero": ("ZERO_STAGE", "2"),
    "nnodes": ("NNODES", "1"),
    "gpus_per_node": ("NPROC_PER_NODE", "4"),
    "master_addr": ("MASTER_ADDR", "localhost"),
    "master_port": ("MASTER_PORT", "29500"),
}
#: Variables that name what a flag of train names.
_SETTINGS = {
    "MODEL_PATH": "model",
    "TRAIN_FILE_DIR": "data",
    "TRAIN_DATA_DIR": "data",
    "OUTPUT_DIR": "output",
}
#: Variables whose value is a path, given to a flag of the trainer.
_PATH_FLAGS = {
    "TOKENIZER_PATH": "tokenizer_name_or_path",
    "VALID_FILE_DIR": "validation_file_dir",
    "VALID_DATA_DIR": "validation_file_dir",
}
#: Variables that are a flag of the trainer in capitals.
_FLAGS = (
    "PER_DEVICE_TRAIN_BATCH_SIZE", "PER_DEVICE_EVAL_BATCH_SIZE", "GRADIENT_ACCUMULATION_STEPS",
    "NUM_TRAIN_EPOCHS", "MAX_STEPS", "LEARNING_RATE", "WEIGHT_DECAY", "MAX_TRAIN_SAMPLES",
    "MAX_EVAL_SAMPLES", "MODEL_MAX_LENGTH", "EVAL_STEPS", "SAVE_STEPS", "LORA_RANK", "LORA_ALPHA",
    "LORA_DROPOUT", "TARGET_MODULES",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NodeForm:
    """One node of a run that is started by hand. ``notices`` are for the person who did.

    ``run``: the run's id, where RUN_ID gives it: the nodes' parts are then one run to who asks
    hosts for runs. Empty: an id of this node's own.
    """

    zero: int
    nnodes: int
    nproc_per_node: int
    node_rank: int
    master_addr: str
    master_port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    run: str = ""


def parse_node_form(
    given: Mapping[str, Any], shell: Mapping[str, str], home: Path, here: Path
) -> NodeForm:
    """The node from what was given by position or flag, then ``shell``, then defaults.

    ``home`` and ``here`` are where relative paths and ``~/`` start. Raises ConfigError for what
    can't be meant.
    """
    values = {
        name: str(given.get(name) or shell.get(variable) or default)
        for name, (variable, default) in POSITIONS.items()
    }
    nproc = _number("gpus_per_node", values["gpus_per_node"], 1)
    notices: list[str] = []
    world = shell.get("WORLD_SIZE")
    if world and not given.get("nnodes"):
        values["nnodes"], notice = _nodes_of(world, shell.get("NNODES"), nproc)
        notices += [notice] if notice else []
    nnodes = _number("nnodes", values["nnodes"], 1)
    node_rank = _node_rank(shell, nnodes)
    if nnodes > 1 and "NODE_RANK" not in shell:
        notices.append(f"NODE_RANK is not set: this is node 0 of {nnodes}, whom the others meet")
    _require_one_meaning(shell, home, here)
    flags = {name.lower(): shell[name] for name in _FLAGS if shell.get(name)}
    if ratio := shell.get("WARMUP_RATIO"):
        flags["warmup_steps"] = _ratio(ratio)
    for name, flag in _PATH_FLAGS.items():
        if shell.get(name):
            flags[flag] = local_path(shell[name], home, here)
    return NodeForm(
        zero=_number("zero", values["zero"], 1),
        nnodes=nnodes,
        nproc_per_node=nproc,
        node_rank=node_rank,
        master_addr=values["master_addr"],
        master_port=_number("master_port", values["master_port"], 1),
        settings={
            setting: local_path(shell[name], home, here)
            for name, setting in _SETTINGS.items()
            if shell.get(name)
        },
        flags=flags,
        environ={"HF_HOME": local_path(shell["CACHE_DIR"], home, here)}
        if shell.get("CACHE_DIR")
        else {},
        notices=tuple(notices),
        run=shell.get("RUN_ID", ""),
    )


def _node_rank(shell: Mapping[str, str], nnodes: int) -> int:
    node_rank = _number("NODE_RANK", shell.get("NODE_RANK") or "0", 0)
    if node_rank >= nnodes:
        raise ConfigError(
            "NODE_RANK",
            found=node_rank,
            expected=f"0 to {nnodes - 1}, for {nnodes} nodes",
            remedy="give each node its own, from 0 on",
        )
    return node_rank


def _require_one_meaning(shell: Mapping[str, str], home: Path, here: Path) -> None:
    """ConfigError where two names of one thing are set, and say different things."""
    for meanings in (_SETTINGS, _PATH_FLAGS):
        said: dict[str, tuple[str, str]] = {}
        for name, meaning in meanings.items():
            if not shell.get(name):
                continue
            path = local_path(shell[name], home, here)
            other, before = said.setdefault(meaning, (name, path))
            if path != before:
                raise ConfigError(
                    f"{other} and {name}",
                    found=f"{shell[other]} and {shell[name]}",
                    expected="one of them: they are two names of one thing",
                    remedy=f"unset {other} or {name}",
                )


def local_path(text: str, home: Path, here: Path) -> str:
    """A path of this node in full; a hub id stays one, where no such folder is here."""

    def one(part: str) -> str:
        path = home / part[2:] if part.startswith("~/") else here / part
        known = path.exists() or part.startswith((".", "/", "~")) or part.count("/") != 1
        return str(path) if known else part

    return ",".join(one(part) for part in text.split(","))


def local_paths(s: Settings, home: Path, here: Path) -> dict[str, str]:
    """A run's paths in full, those that are given: a job and a node have no current folder."""
    given = {name: getattr(s, name) for name in ("model", "data", "output")}
    return {name: local_path(value, home, here) for name, value in given.items() if value}


def _nodes_of(world: str, nnodes: str | None, nproc: int) -> tuple[str, str]:
    """How many nodes WORLD_SIZE means, and what is to be said of that."""
    if nnodes is None:
        return world, (
            f"WORLD_SIZE={world} is taken as {world} nodes. To torchrun it is the number of all "
            "ranks, which torchrun sets by itself: NNODES says what is meant"
        )
    if world not in (nnodes, str(_number("NNODES", nnodes, 1) * nproc)):
        raise ConfigError(
            "WORLD_SIZE and NNODES",
            found=f"{world} and {nnodes}",
            expected=f"WORLD_SIZE to be nodes ({nnodes}) or all ranks ({int(nnodes) * nproc})",
            remedy="unset WORLD_SIZE: NNODES is enough",
        )
    return nnodes, ""


def _number(name: str, text: str, least: int) -> int:
    if text.isdecimal() and int(text) >= least:
        return int(text)
    raise ConfigError(
        name,
        found=repr(text),
        expected=f"a number, {least} or more",
        remedy="as in: NODE_RANK=1 invoke node 3 2 4 192.168.1.100 29500",
    )


def _ratio(text: str) -> str:
    """A warmup ratio as warmup_steps, which takes a share of all steps below 1."""
    try:
        if 0 <= float(text) < 1:
            return text
    except ValueError:
        pass
    raise ConfigError(
        "WARMUP_RATIO",
        found=text,
        expected="0 up to, not including, 1",
        remedy="write it as in WARMUP_RATIO=0.03",
    )


def words_after(argv: list[str], command: str) -> int:
    """How many words stand directly behind a command on a command line, up to the next flag."""
    if command not in argv:
        return 0
    words = argv[argv.index(command) + 1 :]
    return next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
