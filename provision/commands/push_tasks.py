"""``invoke push``: a model or data from this machine onto every host."""

from __future__ import annotations

from provision.commands.flags import FLEET, command
from provision.commands.reach import connected_fleet
from provision.settings import Settings
from provision.show import Answer


@command("what", *FLEET, "limit", "dry_run")
def push(out: Answer, s: Settings) -> None:
    """Make a file or folder of this machine available on every host, under its digest."""
    from provision.commands.pushing import apply_pushed, gather_all_looks, read_what, show_pushed
    from provision.numbers import parse_rate
    from provision.push.plan import plan_push

    rate = parse_rate(s.limit)
    assert s.what is not None
    what = read_what(s.what, out.say)
    with connected_fleet(s) as fleet:
        looks = gather_all_looks(out, fleet, what)
        out.plan(plan := plan_push(what, looks))
        moved = apply_pushed(out, fleet, plan, rate)
    show_pushed(out, what, looks, moved)


#: What tasks.py adds to its own.
TASKS = (push,)
