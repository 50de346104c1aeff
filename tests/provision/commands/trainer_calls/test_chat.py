"""Which questions chat asks."""

from __future__ import annotations

import io
import sys

import pytest

from provision.commands.trainer_calls.chat import apply_chat, read_questions
from provision.errors import ConfigError
from provision.settings import make_settings
from provision.show import Answer


def test_a_prompt_is_the_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("another\n"))
    assert list(read_questions(Answer(json=False), "why?")) == ["why?"]


def test_lines_are_questions_till_stdin_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("  one \n\n \ntwo"))
    assert list(read_questions(Answer(json=False), None)) == ["one", "two"]
    assert capsys.readouterr().err == ""  # it is no terminal that would be asked


def test_an_empty_prompt_is_refused_before_any_host_is_asked(tmp_path) -> None:
    s = make_settings({}, {"prompt": "  ", "result": "last"}, tmp_path)
    with pytest.raises(ConfigError, match="--prompt: found nothing"):
        apply_chat(Answer(json=True), s)
