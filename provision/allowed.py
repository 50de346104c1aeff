"""What a setting may be, wherever it was said: the rest is refused, in one line each."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.setting_kinds import Kind
from provision.setting_table import EXISTING, SETTINGS

#: Kinds that may be a list in invoke.yaml; what set and env may be, settings.py says.
_LISTS = (Kind.COMMAS, Kind.WORDS, Kind.REPEATED, Kind.PAIRS)
#: https://docs.pyinvoke.org/en/stable/concepts/configuration.html#default-configuration-values
_OF_INVOKE = {"run", "runners", "sudo", "tasks", "timeouts"}
#: Embeddings, overrides and isolates: https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def require_known(key: str) -> None:
    """ConfigError for a setting that there is none of, with the closest one."""
    if key not in SETTINGS:
        near = difflib.get_close_matches(key, SETTINGS, n=1)
        raise ConfigError(
            "invoke.yaml, zerofleet",
            found=f"unknown setting {key!r}",
            expected="a flag's name with _ for -, connect_timeout or workers",
            remedy=f"did you mean {near[0]!r}?" if near else "remove it",
        )


def require_block(names: Iterable[str]) -> None:
    """ConfigError for a setting beside ``zerofleet:``, or that word misspelt: neither would count.

    ``names``: the top level of Invoke's configuration.
    """
    for name in names:
        ours = name in SETTINGS and name not in _OF_INVOKE
        if ours or (name != "zerofleet" and difflib.get_close_matches(name, ["zerofleet"], 1, 0.7)):
            raise ConfigError(
                "invoke.yaml",
                found=f"{name!r} at the left margin",
                expected="zerofleet: there, and settings below it, indented",
                remedy="indent it below zerofleet:" if ours else "did you mean zerofleet?",
            )


def require_kind(key: str, value: Any) -> None:
    """A switch is on or off: "no" in quotes is a text, and a text would be on."""
    wanted = ""
    kind = SETTINGS[key].kind
    if kind is Kind.SWITCH and value is not None and not isinstance(value, bool):
        wanted = "true or false, without quotes"
    elif isinstance(value, list | tuple) and kind not in _LISTS:
        wanted = "one value"
    if wanted:
        raise ConfigError(
            f"invoke.yaml, {key}",
            found=repr(value),
            expected=wanted,
            remedy="write that, or remove the line",
        )


def require_existing(values: Mapping[str, Any]) -> None:
    """--env-python is of no use to other sources: it was meant to be."""
    if "env_python" in values["given"] and values["env_source"] != EXISTING:
        raise ConfigError(
            "--env-python",
            found=f"--env-source {values['env_source']} beside it",
            expected="--env-source existing",
            remedy="write --env-source existing, or leave --env-python out",
        )


def expanded(key: str, path: str) -> Path:
    """A path of this machine, with ~ and ~user as the home that they stand for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"--{key.replace('_', '-')}",
            found=repr(path),
            expected="~/ or ~user/ of a user whose home is known here",
            remedy="write the path in full",
        ) from None


def require_plain(key: str, value: Any) -> None:
    """Refuse what a terminal obeys, ends a line, or is no character at all: Unicode's categories
    of control and separator characters, surrogates, and marks that change the direction of text.
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (odd := [c for c in text if _is_odd(c)]):
            raise ConfigError(
                f"--{key.replace('_', '-')}",
                found=ascii(text[:200]),
                expected=f"no {odd[0]!a} in it",
                remedy="take that character out; rename the file or folder if it is in its name",
            )


def _is_odd(character: str) -> bool:
    odd = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return odd or unicodedata.bidirectional(character) in _DIRECTIONS
