"""Chat templates by name, for tokenizers that have none: ``--chat_template chatml``.

Each is the format of the model family that it is named for, without tools and thinking; a system
message is taken where the format has a place for one. A tokenizer knows a format's marks as single
tokens only if it was made with them: what is said of that at the start of a run is worth reading.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import RequestError

_SYSTEM_FIRST = (
    "{%- if messages[0].role == 'system' %}"
    "{%- set system = messages[0].content + '\\n\\n' %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}"
)
#: Name → Jinja.
TEMPLATES: dict[str, str] = {
    # Qwen, Yi and others: https://huggingface.co/Qwen/Qwen2.5-7B-Instruct
    "chatml": (
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    # https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
    "llama3": (
        "{{- bos_token or '' }}"
        "{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
        "{{- message.content + '<|eot_id|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
        "{%- endif %}"
    ),
    # https://docs.mistral.ai/guides/tokenization/ (v3): a system message stands in the first turn
    "mistral": (
        _SYSTEM_FIRST + "{{- bos_token or '' }}"
        "{%- for message in turns %}"
        "{%- if message.role == 'user' %}"
        "{{- '[INST] ' + (system if loop.first else '') + message.content + '[/INST]' }}"
        "{%- else %}{{- ' ' + message.content + (eos_token or '') }}{%- endif %}"
        "{%- endfor %}"
    ),
    # https://ai.google.dev/gemma/docs/formatting: a system message stands in the first turn
    "gemma": (
        _SYSTEM_FIRST + "{{- bos_token or '' }}"
        "{%- for message in turns %}"
        "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}"
        "{{- (system if loop.first else '') + message.content + '<end_of_turn>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
    ),
    # https://github.com/lm-sys/FastChat/blob/main/docs/vicuna_weights_version.md (v1.1)
    "vicuna": (
        _SYSTEM_FIRST + "{{- bos_token or '' }}{{- system.strip() + ' ' if system else '' }}"
        "{%- for message in turns %}"
        "{%- if message.role == 'user' %}{{- 'USER: ' + message.content + ' ' }}"
        "{%- else %}{{- 'ASSISTANT: ' + message.content + (eos_token or '') }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'ASSISTANT: ' }}{%- endif %}"
    ),
}


def read_template(named: str) -> str:
    """The Jinja of a name or of a file. RequestError where it is neither."""
    if named in TEMPLATES:
        return TEMPLATES[named]
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(TEMPLATES))
        raise RequestError(
            f"--chat_template {named}: neither a template's name ({names}) nor a readable file: "
            f"{error}"
        ) from None
