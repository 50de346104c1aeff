"""``invoke push``: a model or data from this machine onto every host."""

from __future__ import annotations

from provision.commands.connect import connected_fleet
from provision.commands.flags import FLEET, command
from provision.commands.help_texts import FOR_PUSH
from provision.settings import Settings
from provision.show import Answer


@command("what", *FLEET, "limit", "check", "dry_run", helps=FOR_PUSH)
def push(out: Answer, s: Settings) -> None:
    """Copy a model or data set from this machine to every host, where train then finds it.

    Example: invoke push ./models/qwen3 --limit 50MB/s
    """
    from provision.commands.push.push import apply_pushed, gather_all_looks, read_what, show_pushed
    from provision.push.plan import plan_push

    assert s.what is not None
    what = read_what(s.what, out.say)
    with connected_fleet(s) as fleet:
        looks = gather_all_looks(out, fleet, what)
        out.plan(plan := plan_push(what, looks, check=s.check))
        moved = apply_pushed(out, s, fleet, plan)
    show_pushed(out, what, looks, moved)


#: What tasks.py adds to its own.
TASKS = (push,)
