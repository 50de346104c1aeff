"""The steps of chat: questions to the result of a run, answers as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from provision.commands.trainer_calls.call import apply_called, gather_result_folder
from provision.errors import ConfigError
from provision.fleet import Fleet
from provision.launch.module import ModuleCall, Working
from provision.settings import Settings
from provision.show import Answer


def gather_chat_call(out: Answer, s: Settings, fleet: Fleet | None) -> ModuleCall:
    """``invoke chat``."""
    who, folder, _ = gather_result_folder(out, s, fleet)
    longest = str(s.max_new_tokens)
    return who.call("trainer.sample", folder, "--max-new-tokens", longest, "--json")


def read_questions(out: Answer, prompt: str | None) -> Iterator[str]:
    """The one question, or lines from stdin until it ends."""
    if prompt is not None:
        yield prompt
        return
    asks = sys.stdin.isatty() and not out.json
    while True:
        if asks:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def apply_question(out: Answer, working: Working, question: str) -> dict[str, Any]:
    """Ask, show the answer as it comes, and give it whole."""
    working.apply_tell(ask=question)
    while "answer" not in (said := working.read_said() or {"answer": "", "tokens": 0}):
        out.piece(str(said["piece"]))
    out.text("")
    return {"ask": question, "answer": said["answer"], "tokens": said["tokens"]}


def apply_chat(out: Answer, s: Settings) -> None:
    """One question, or a conversation until stdin ends."""
    if s.prompt is not None and not s.prompt.strip():
        raise ConfigError(
            "--prompt", found="nothing", expected="a question", remedy="leave it out to type some"
        )
    with apply_called(out, s, gather_chat_call) as (working, _):
        ready = working.read_said() or {}
        out.add(model=ready.get("ready"), device=ready.get("device"))
        said = [apply_question(out, working, one) for one in read_questions(out, s.prompt)]
    out.add(said=said)
