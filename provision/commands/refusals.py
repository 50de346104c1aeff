"""What Invoke refuses before a command begins, said as everything else is: one line, exit code 2.

Invoke parses the command line and reads invoke.yaml by itself. Of a word it does not know it says
"No idea what '--zeero' is!", exits with 1, and answers ``--json`` with nothing. A file that it
can't read ends in a traceback: https://github.com/pyinvoke/invoke/blob/2.2.1/invoke/program.py
"""

from __future__ import annotations

import atexit
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from invoke.exceptions import ParseError
from invoke.main import program
from invoke.parser.context import ParserContext
from invoke.program import Program

from provision import show
from provision.commands.flags import FLAGS
from provision.errors import ConfigError

_UNKNOWN = re.compile(r"No idea what '(.+)' is!", re.DOTALL)
_NO_VALUE = re.compile(r"Flag <Argument: ([\w-]+).*> needed value and was not given one!")
_NO_POSITION = re.compile(r"'.+' did not receive required positional arguments: '([\w-]+)'.*")


def take_over() -> None:
    """From here on, what Invoke would say itself is said here.

    Invoke runs one object of its own, and by now it is running: its methods are wrapped.
    """
    for name in ("parse_tasks", "parse_cleanup"):
        setattr(program, name, partial(_said, getattr(Program, name)))
    sys.excepthook = say_uncaught
    atexit.register(_end_output)


def _said(step: Callable[[Program], None]) -> None:
    """One step of Invoke's, with errors as ours."""
    if step is Program.parse_tasks:
        _require_config(program.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG"))
    try:
        step(program)
    except ParseError as error:
        with show.answer(json="--json" in program.argv):
            raise explained(str(error), error.context, [*program.collection.task_names]) from None


def _require_config(config: str | None) -> None:
    """Invoke goes on without a configuration file that it was told of and that is not there."""
    if config and not Path(config).is_file():
        with show.answer(json="--json" in program.argv):
            raise ConfigError(
                f"configuration {config}",
                found="no such file",
                expected="a YAML file with a zerofleet: block",
                remedy="correct -f, or INVOKE_RUNTIME_CONFIG",
            )


def explained(said: str, context: ParserContext | None, commands: Iterable[str]) -> ConfigError:
    """What Invoke's parser said, as found, expected and remedy. ``context``: where it stopped."""
    name = (context.name if context else None) or ""
    usage = f"invoke {name} --help shows what it takes"
    if found := _UNKNOWN.fullmatch(said):
        return _unknown(found[1], context if name else None, commands)
    if found := _NO_VALUE.fullmatch(said):
        return ConfigError(
            f"--{found[1].replace('_', '-')}",
            found="no value",
            expected="one after it",
            remedy=usage if name else "invoke --help shows what it takes",
        )
    if found := _NO_POSITION.fullmatch(said):
        word = found[1].upper()
        return ConfigError(
            f"invoke {name}",
            found=f"no {word}",
            expected=FLAGS[found[1]].described if found[1] in FLAGS else word,
            remedy=f"write it behind the command; {usage}",
        )
    return ConfigError("command line", found=said, expected="flags and values", remedy=usage)


def _unknown(word: str, context: ParserContext | None, commands: Iterable[str]) -> ConfigError:
    """A word that is nothing known where it stands."""
    flags = [*context.flags] if context and word.startswith("-") else []
    near = difflib.get_close_matches(word, flags or commands, n=1)
    asked = [f"did you mean {near[0]}?"] if near else []
    if context is None:
        advice = ["invoke --list shows all"]
        expected = "a command"
    else:
        advice = [f"invoke {context.name} --help shows what it takes"]
        expected = "one of its flags" if flags else "flags, or another command"
        if not flags:
            advice += ["a value with spaces needs quotes"]
    return ConfigError(
        f"invoke {context.name}" if context else "invoke",
        found=f"unknown {'flag' if word.startswith('-') else 'word'} {word!r}",
        expected=expected,
        remedy=" ".join([*asked, "; ".join(advice)]),
    )


def say_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """As ``sys.excepthook``: one line for a configuration that Invoke can't read, or for Ctrl-C;
    none where whoever read stdout has gone.

    Anything else is a fault of this program, and keeps its traceback.
    """
    frames = [*_frames(trace)]
    if any(name == "invoke.config" for name, _ in frames) and isinstance(error, Exception):
        with show.answer(json="--json" in sys.argv):
            raise unreadable(error, [names for _, names in frames])
    if kind in (KeyboardInterrupt, BrokenPipeError):
        with show.answer(json="--json" in sys.argv):
            raise error
    sys.__excepthook__(kind, error, trace)


def unreadable(error: Exception, frames: list[dict[str, Any]]) -> ConfigError:
    """What is wrong with a configuration, from where in reading it Invoke stopped.

    ``frames``: the local names of each function that was at work, outermost first. Invoke's errors
    name neither the file nor the setting.
    """
    variable = [names["key_path"] for names in frames if {"key_path", "old"} <= {*names}]
    if variable:
        return ConfigError(
            f"INVOKE_{'_'.join(variable[-1]).upper()}",
            found=error,
            expected="a value of this setting",
            remedy="correct this variable, or unset it",
        )
    files = [names[key] for names in frames for key in ("filepath", "path") if names.get(key)]
    merged = [names for names in frames if {"base", "updates"} <= {*names}]
    keys = [str(names["key"]) for names in merged if "key" in names]
    where = str(files[-1]) if files else "invoke.yaml"
    if not merged:
        found = error if isinstance(error, OSError) else " ".join(str(error).split())
        remedy = "make it such a file, or remove it"
        return ConfigError(where, found=found, expected="YAML that can be read", remedy=remedy)
    value = merged[-1].get("value", merged[-1]["updates"])
    block = isinstance(merged[-1].get("base", {}).get(keys[-1]) if keys else {}, dict)
    return ConfigError(
        f"{where}: {'.'.join(keys)}" if keys else where,
        found="nothing" if value is None else repr(value)[:80],
        expected="name: value lines below it, indented" if block else "one value",
        remedy="write that, or remove it",
    )


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, dict[str, Any]]]:
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__")), trace.tb_frame.f_locals
        trace = trace.tb_next


def _end_output() -> None:
    """Whoever read stdout has gone (``--help | head``): Python would say so after the last line."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
