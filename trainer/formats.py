"""The shapes of a row, recognised by its columns: conversation, preference, or text.

Standard library only, Python >= 3.8: see rows.py, which hosts run before a run.

    sft       {"conversations": [{"from": "system|human|gpt", "value": "..."}], "system_prompt": ""}
              {"messages": [{"role": "system|user|assistant", "content": "..."}]}
              {"instruction": "...", "input": "", "output": "...", "system": "", "history": []}
    orpo      {"question": "...", "response_chosen": "...", "response_rejected": "...",
               "system": "", "history": [["question", "answer"]]}
              {"prompt": "..." or messages, "chosen": ..., "rejected": ...}
              {"chosen": messages, "rejected": messages}, alike but for the last answer
              {"conversations": [...], "chosen": {"from": "gpt", "value": "..."}, "rejected": {...}}
    pretrain  {"text": "..."}

A conversation is an optional system message, then questions and answers in turn.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

Messages = List[Dict[str, str]]

#: Column -> (key of the role, key of the text, role there -> role of a message).
TURNS: Dict[str, Tuple[str, str, Dict[str, str]]] = {
    "conversations": (
        "from",
        "value",
        {"system": "system", "human": "user", "gpt": "assistant"},
    ),
    "messages": (
        "role",
        "content",
        {"system": "system", "user": "user", "assistant": "assistant"},
    ),
}


class Sample(NamedTuple):
    """What a row says, whatever it looked like.

    A conversation is ``messages`` alone. A preference is the ``messages`` up to a question, and the
    answer to prefer (``chosen``) and to avoid (``rejected``). A text is ``text`` alone.
    """

    messages: Messages
    chosen: str = ""
    rejected: str = ""
    text: str = ""
    format: str = ""


class BadRow(Exception):
    """A row's problem, raised where the file and line are not known."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


class Format(NamedTuple):
    """A shape of rows: its name, the columns that tell it, and how it is read."""

    name: str
    columns: Tuple[str, ...]
    read: Callable[[Dict[str, Any]], Sample]


def sample_of(value: Any, objective: str) -> Sample:
    """What one decoded row says to an objective (sft, orpo or pretrain).

    Raises BadRow for a row of no format of that objective, and for one that is not whole.
    """
    if not isinstance(value, dict):
        raise BadRow("a JSON %s" % kind(value), "a JSON object")
    row = {str(key): each for key, each in value.items() if each is not None}
    formats = FORMATS[objective]
    fits = [each for each in formats if all(column in row for column in each.columns)]
    # A format whose columns are part of another's is not meant where the other one fits.
    fits = [f for f in fits if not any(set(f.columns) < set(o.columns) for o in fits)]
    if objective != "orpo" and _is_preference(row):
        fits = []
    if len(fits) != 1:
        raise BadRow(short(_found(row, fits)), " or ".join("+".join(f.columns) for f in formats))
    return fits[0].read(row)._replace(format=fits[0].name)


def _found(row: Dict[str, Any], fits: List[Format]) -> str:
    if fits:
        return "columns of %s" % " and of ".join(each.name for each in fits)
    found = "columns " + (", ".join(row) or "none")
    for objective in ("orpo", "sft", "pretrain"):
        for each in FORMATS[objective]:
            if all(column in row for column in each.columns):
                return "%s (%s: rows for %s)" % (found, each.name, objective)
    return found


def _is_preference(row: Dict[str, Any]) -> bool:
    return any(all(column in row for column in each.columns) for each in FORMATS["orpo"])


# ------------------------------------------------------------------------------- conversations


def _read_turns(column: str) -> Callable[[Dict[str, Any]], Sample]:
    def read(row: Dict[str, Any]) -> Sample:
        messages = _with_system(turns(column, row[column]), row)
        require_conversation(messages)
        return Sample(messages)

    return read


def _read_alpaca(row: Dict[str, Any]) -> Sample:
    question = text("instruction", row["instruction"])
    if row.get("input"):
        question += "\n\n" + text("input", row["input"])
    messages = _history(row.get("history"))
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": text("output", row["output"])})
    return Sample(_with_system(messages, row))


def turns(column: str, value: Any, style: Optional[str] = None) -> Messages:
    """The messages of a list of turns, as ``conversations`` or ``messages`` (``style``) has them.

    Raises BadRow.
    """
    if not isinstance(value, list):
        raise BadRow("%s: a JSON %s" % (column, kind(value)), "a list of turns")
    return [_message(column, n, turn, style or column) for n, turn in enumerate(value, start=1)]


def _message(column: str, number: int, turn: Any, style: str) -> Dict[str, str]:
    role_key, text_key, roles = TURNS[style]
    where = "%s turn %d" % (column, number)
    if not isinstance(turn, dict):
        raise BadRow("%s: a JSON %s" % (where, kind(turn)), "an object")
    for key in (role_key, text_key):
        if key not in turn:
            raise BadRow("%s without %r" % (where, key), "%r and %r" % (role_key, text_key))
    role = turn[role_key]
    if not isinstance(role, str) or role not in roles:
        raise BadRow("%s: %s %s" % (where, role_key, short(repr(role))), " or ".join(roles))
    return {"role": roles[role], "content": text(where + ": " + text_key, turn[text_key])}


def _history(value: Any) -> Messages:
    """Earlier questions and answers: a list of pairs."""
    messages: Messages = []
    if value in (None, "", []):
        return messages
    if not isinstance(value, list):
        raise BadRow("history: a JSON %s" % kind(value), "a list of [question, answer]")
    for number, pair in enumerate(value, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("history %d: no pair" % number, "[question, answer]")
        for role, said in zip(("user", "assistant"), pair):
            messages.append({"role": role, "content": text("history %d" % number, said)})
    return messages


def _with_system(messages: Messages, row: Dict[str, Any]) -> Messages:
    for column in ("system_prompt", "system"):
        if row.get(column, "") != "":
            return [{"role": "system", "content": text(column, row[column])}, *messages]
    return messages


def require_conversation(messages: Messages, last: str = "assistant") -> None:
    """Raise BadRow unless the messages are a conversation whose ``last`` kind of turn is there."""
    roles = [message["role"] for message in messages]
    if last == "assistant" and last not in roles:
        raise BadRow("no answer (%s)" % (", ".join(roles) or "no turns"), "an answer to learn from")
    after: Optional[str] = None
    follows = {
        "system": (None,),
        "user": (None, "system", "assistant"),
        "assistant": ("user",),
    }
    for role in roles:
        if after not in follows[role]:
            raise BadRow(
                "%s %s" % (role, "after " + after if after else "as the first turn"),
                "at most one system message, then user and assistant in turn",
            )
        after = role
    if last == "user" and after != "user":
        raise BadRow("a prompt that ends with %s" % (after or "nothing"), "a question at its end")


# --------------------------------------------------------------------------------- preferences


def _read_question(row: Dict[str, Any]) -> Sample:
    messages = _history(row.get("history"))
    messages.append({"role": "user", "content": text("question", row["question"])})
    return _preference(row, messages, "response_chosen", "response_rejected")


def _read_prompt(row: Dict[str, Any]) -> Sample:
    prompt = row["prompt"]
    if isinstance(prompt, list):
        messages = turns("prompt", prompt, "messages")
    else:
        messages = [{"role": "user", "content": text("prompt", prompt)}]
    return _preference(row, messages, "chosen", "rejected")


def _read_sharegpt_pair(row: Dict[str, Any]) -> Sample:
    messages = turns("conversations", row["conversations"])
    return _preference(row, messages, "chosen", "rejected")


def _read_implicit(row: Dict[str, Any]) -> Sample:
    """Two conversations that differ in their last answer: what they share is the prompt."""
    both = [turns(column, row[column], "messages") for column in ("chosen", "rejected")]
    if not all(both) or both[0][:-1] != both[1][:-1]:
        raise BadRow("chosen and rejected that differ before their end", "one shared beginning")
    ends = {name: each[-1:] for name, each in zip(("chosen", "rejected"), both)}
    return _preference({**row, **ends}, both[0][:-1], "chosen", "rejected")


def _preference(row: Dict[str, Any], messages: Messages, chosen: str, rejected: str) -> Sample:
    messages = _with_system(messages, row)
    require_conversation(messages, last="user")
    answers = [_answer(column, row[column]) for column in (chosen, rejected)]
    if answers[0] == answers[1]:
        raise BadRow("%s and %s are the same" % (chosen, rejected), "two different answers")
    return Sample(messages, answers[0], answers[1])


def _answer(column: str, value: Any) -> str:
    """An answer's text: as such, as a turn, or as a list of one turn."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return text(column, value)
    style = "conversations" if "from" in value else "messages"
    (message,) = turns(column, [value], style)
    if message["role"] != "assistant":
        raise BadRow("%s: said by the %s" % (column, message["role"]), "an answer")
    return message["content"]


# ---------------------------------------------------------------------------------------- text


def _read_text(row: Dict[str, Any]) -> Sample:
    return Sample([], text=text("text", row["text"]))


def text(where: str, value: Any) -> str:
    """A text that says something; BadRow for anything else."""
    if not isinstance(value, str):
        raise BadRow("%s: a JSON %s" % (where, kind(value)), "text")
    if not value.strip():
        raise BadRow("%s is empty" % where, "text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("%s has half a surrogate pair" % where, "Unicode text") from None
    return value


def kind(value: Any) -> str:
    """JSON's name of a value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def short(words: str) -> str:
    """At most 120 characters of it."""
    return words if len(words) <= 120 else words[:119] + "\u2026"


#: What each objective reads.
FORMATS: Dict[str, Tuple[Format, ...]] = {
    "sft": (
        Format("ShareGPT", ("conversations",), _read_turns("conversations")),
        Format("messages", ("messages",), _read_turns("messages")),
        Format("Alpaca", ("instruction", "output"), _read_alpaca),
    ),
    "orpo": (
        Format("question", ("question", "response_chosen", "response_rejected"), _read_question),
        Format("prompt", ("prompt", "chosen", "rejected"), _read_prompt),
        Format("ShareGPT pair", ("conversations", "chosen", "rejected"), _read_sharegpt_pair),
        Format("implicit prompt", ("chosen", "rejected"), _read_implicit),
    ),
    "pretrain": (Format("text", ("text",), _read_text),),
}
