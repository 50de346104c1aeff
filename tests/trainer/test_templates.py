"""trainer/templates.py: each template renders as its family does, and answers are found in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from trainer.data import answer_spans
from trainer.errors import RequestError
from trainer.templates import TEMPLATES, read_template

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "6."},
]
EXPECTED = {
    "chatml": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
    "<|im_start|>assistant\n4.<|im_end|>\n<|im_start|>user\nAnd 3+3?<|im_end|>\n"
    "<|im_start|>assistant\n6.<|im_end|>\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n4.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd 3+3?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n6.<|eot_id|>",
    "mistral": "[INST] Be short.\n\n2+2?[/INST] 4.<|im_end|>[INST] And 3+3?[/INST] 6.<|im_end|>",
    "gemma": "<start_of_turn>user\nBe short.\n\n2+2?<end_of_turn>\n"
    "<start_of_turn>model\n4.<end_of_turn>\n<start_of_turn>user\nAnd 3+3?<end_of_turn>\n"
    "<start_of_turn>model\n6.<end_of_turn>\n",
    "vicuna": "Be short. USER: 2+2? ASSISTANT: 4.<|im_end|>USER: And 3+3? ASSISTANT: 6.<|im_end|>",
}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_conversation_is_rendered_and_its_answers_are_found(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    tokenizer.chat_template = read_template(name)
    text, spans = answer_spans(tokenizer, TALK)
    assert text == EXPECTED[name]
    answers = [text[begin:end].strip() for begin, end in spans]
    assert [answer[:2] for answer in answers] == ["4.", "6."]
    assert not any("USER" in one or "user" in one or "INST" in one for one in answers)


def test_a_file_is_a_template_and_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    assert read_template(str(tmp_path / "mine.jinja")) == "{{ messages[0].content }}"
    with pytest.raises(RequestError, match=r"chatml, gemma, llama3, mistral, vicuna\) nor a"):
        read_template("no-such-template")
