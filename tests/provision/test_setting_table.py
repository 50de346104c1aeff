"""One table of settings: what Settings holds of each, and which commands take it."""

from __future__ import annotations

from dataclasses import fields

import pytest

import tasks
from provision.commands.flags import FLAGS
from provision.setting_kinds import Kind, Setting, number, pairs, switch, text
from provision.setting_table import SETTINGS
from provision.settings import Settings

#: Of Settings' fields, those that follow from others.
DERIVED = {"given", "zero_auto", "env_set"}
#: What Settings holds of each kind. "| None" where the default is nothing.
TYPES = {
    Kind.TEXT: "str",
    Kind.SWITCH: "bool",
    Kind.NUMBER: "int",
    Kind.PATH: "Path",
    Kind.COMMAS: "str",
    Kind.WORDS: "str",
    Kind.RATE: "str",
    Kind.REPEATED: "tuple[str, ...]",
    Kind.PAIRS: "Mapping[str, Any]",
    Kind.OPTIONAL: "str | bool",
}
#: Otherwise: YAML reads 20:00:00 as a number; the lock lies beside hosts.txt; flags stay as given.
TYPED = {"time": "object", "lock_file": "Path", "env": "tuple[str, ...]"}
#: Invoke.yaml alone sets these.
NO_FLAG = {"connect_timeout", "workers"}


def test_settings_hold_each_in_the_tables_order() -> None:
    assert [f.name for f in fields(Settings) if f.name not in DERIVED] == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_typed_as_its_kind(name: str) -> None:
    (field,) = [f for f in fields(Settings) if f.name == name]
    setting = SETTINGS[name]
    wanted = TYPES[setting.kind] + (" | None" if setting.default is None else "")
    assert field.type == TYPED.get(name, wanted)


def test_each_setting_is_a_flag_of_some_command_and_has_help_then() -> None:
    taken = {arg.attr_name for task in tasks.ns.tasks.values() for arg in task.get_arguments()}
    taken |= {arg.name for task in tasks.ns.tasks.values() for arg in task.get_arguments()}
    assert set(FLAGS) - taken == NO_FLAG
    assert {name for name, setting in FLAGS.items() if not setting.help} == NO_FLAG


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (number(help="seconds", default=0), "seconds (default 0)"),
        (number(help="seconds"), "seconds"),
        (text(help="a name (default: yours)", default="x"), "a name (default: yours)"),
        (switch(help="do it"), "do it"),
        (pairs(help="NAME=VALUE"), "NAME=VALUE"),
    ],
)
def test_help_ends_with_the_default(setting: Setting, says: str) -> None:
    assert setting.described == says
