"""What every command has in common: its help, wherever on the line it is asked for."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.main import program
from invoke.parser import Parser, ParserContext

import tasks
from provision.commands import help_texts
from provision.commands.flags import FLAGS
from provision.commands.slurm import job, nodes
from provision.launch.byhand import START_WITHIN
from provision.launch.manual import POSITIONS as BY_HAND
from provision.memory.spec import MemorySpec
from provision.setting_table import DEFAULTS
from provision.slurm.spec import RESTARTS

NAMES = sorted(tasks.ns.task_names)
#: Every text that some command's --help has: by flag, and by who says it.
TEXTS = [(flag, "", setting.described) for flag, setting in FLAGS.items()] + [
    (flag, over, text)
    for over, texts in vars(help_texts).items()
    if over.startswith("FOR_")
    for flag, text in texts.items()
]
#: Defaults that are not settings' own: where they are decided.
ELSEWHERE = {
    **{(flag, over): BY_HAND[flag][1] for flag in BY_HAND for over in ("", "FOR_NODE")},
    ("objective", "FOR_NODE"): "sft",
    ("start_within", "FOR_NODE"): int(START_WITHIN),
    ("gpus", ""): job.GPUS,
    ("nodes", ""): job.NODES,
    ("cpus_per_task", ""): job.CPUS,
    ("restarts", ""): RESTARTS,
    ("time", "FOR_NODES"): nodes.TIME,
    ("gpus", "FOR_NODES"): nodes.GPUS,
    ("nodes", "FOR_MEMORY"): MemorySpec.nodes,
    ("accelerator", "FOR_MEMORY"): MemorySpec.accelerator,
}
#: Commands with positions, and words that may stand for them.
POSITIONS = {
    **dict.fromkeys(("attach", "collect", "logs", "report", "resume", "status", "stop"), "last"),
    **dict.fromkeys(("chat", "merge", "export"), "last"),
    **dict.fromkeys(("check-data", "push", "inspect-wheel"), "some/file"),
}


@pytest.fixture
def help_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Path
) -> Callable[..., str]:
    """What a command line prints, which has to end with 0."""

    def told(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["invoke", "--search-root", str(checkout), *words])
        with pytest.raises(SystemExit) as end:
            program.run()
        said = capsys.readouterr()
        assert (end.value.code, said.err) == (0, "")
        return said.out

    return told


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str, help_of: Callable[..., str]) -> None:
    assert f" {name} " in help_of(name, "--help").splitlines()[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that Invoke's parser takes, all flags of it known."""
    task = tasks.ns[name]
    (example,) = re.findall(r"^ *Example: (.+)$", task.__doc__, re.MULTILINE)
    words = shlex.split(example)
    words = words[words.index("invoke") + 1 :]
    monkeypatch.setattr(sys, "argv", ["invoke", *words])  # where node looks for its positions
    (given,) = Parser(contexts=[ParserContext(name=name, args=task.get_arguments())]).parse_argv(
        words
    )
    assert given.name == words[0] == name


@pytest.mark.parametrize("name", [*POSITIONS, "node"])
def test_positions_are_in_the_usage(name: str) -> None:
    (usage,) = re.findall(r"^Usage: invoke (.+)$", tasks.ns[name].__doc__, re.MULTILINE)
    inner = {"zero": "[ZERO] [NNODES] [GPUS_PER_NODE] [MASTER_ADDR] [MASTER_PORT]"}
    (position,) = [arg.name for arg in tasks.ns[name].get_arguments() if arg.positional] or ["zero"]
    assert usage == f"{name} {inner.get(position, position.upper())} [--options]"


def test_which_commands_take_a_position() -> None:
    found = {
        task.name.replace("_", "-"): [arg.name for arg in task.get_arguments() if arg.positional]
        for task in tasks.ns.tasks.values()
    }
    assert {name for name, positions in found.items() if positions} == set(POSITIONS)


@pytest.mark.parametrize("words", [
    *([name, word, "--help"] for name, word in POSITIONS.items()),
    *([name, "--json", "-h"] for name in POSITIONS),
    ["node", "3", "2", "--help"],
    ["train", "--slurm", "--help"],
    ["deploy", "--hosts", "--help"],
    ["hosts", "-h"],
    ["logs", "-fh"],
], ids=" ".join)  # fmt: skip
def test_help_wherever_it_stands(words: list[str], help_of: Callable[..., str]) -> None:
    assert f" {words[0]} " in help_of(*words).splitlines()[0]


@pytest.mark.parametrize(("flag", "over", "text"), TEXTS, ids=lambda one: str(one)[:20])
def test_a_default_that_help_names_is_the_default(flag: str, over: str, text: str) -> None:
    named = re.findall(r"\(default (\S+?)[;)]", text)
    default = ELSEWHERE.get((flag, over), DEFAULTS.get(flag))
    assert named in ([], [str(default)])
    if not over and default not in (None, False, (), {}):
        assert named or "(default: " in text
