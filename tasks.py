"""ZeroFleet's commands. Each is: settings → read → decide → show or apply → exit code.

Exit codes are in provision/errors.py. Every task takes --json (one object on stdout, all else on
stderr); tasks that change something take --dry-run (reads happen, the plan is printed).
"""

import inspect

from invoke import Collection, task

from provision import show
from provision.build.manifest import read_wheel, read_wheels
from provision.deploy.plan import deployed, plan_deploy
from provision.deploy.spec import read_env_spec
from provision.hosts.facts import gather_facts
from provision.hosts.inventory import read_inventory
from provision.hosts.parity import compare
from provision.remote import SshOptions, connected, error_report
from provision.settings import CHECKOUT, DEFAULTS, read_settings

HELP = {
    "hosts": "hosts file (default hosts.txt): one [user@]host[:port] [slots=N] a line",
    "wheel": "file name of the wheel, where the folder of wheels holds several",
    "json": "one JSON object on stdout, everything else on stderr",
    "dry_run": "read everything, print the plan, change nothing",
    "accept_new": "accept (and record) keys of hosts that known_hosts does not list yet",
    "ssh_config": "an OpenSSH client configuration in place of ~/.ssh/config",
}


def command(function):
    """A task whose flags all have their help in HELP."""
    flags = list(inspect.signature(function).parameters)[1:]
    return task(function, name=function.__name__.strip("_"), help={f: HELP[f] for f in flags})


def _settings(c, **flags):
    """Settings of this command."""
    return read_settings(c.config.zerofleet, **flags)


def _fleet(s):
    """The hosts of the hosts file, to be connected to."""
    options = SshOptions(
        config=s.ssh_config,
        accept_new=s.accept_new,
        connect_timeout=s.connect_timeout,
        workers=s.workers,
    )
    return connected(read_inventory(s.hosts), options)


def _facts(out, fleet, peers=()):
    """Facts of every host; the command ends here if one can't be reached."""
    gathered = gather_facts(fleet, peers)
    out.require(error_report(gathered.errors))
    return gathered.facts


@command
def hosts_(c, hosts=None, ssh_config=None, accept_new=None, json=False):
    """Show what each host is: OS, CPU, memory, GPUs, driver, Pythons, environment in use."""
    with show.answer(json) as out:
        s = _settings(c, hosts=hosts, ssh_config=ssh_config, accept_new=accept_new)
        with _fleet(s) as fleet:
            gathered = gather_facts(fleet)
        out.add(hosts={host: facts.as_json() for host, facts in gathered.facts.items()})
        out.table(show.HOST_COLUMNS, show.host_rows(gathered.facts))
        out.report(error_report(gathered.errors))


@command
def parity(c, hosts=None, wheel=None, ssh_config=None, accept_new=None, json=False):
    """Hold the hosts against the wheel (if one is built) and against each other."""
    with show.answer(json) as out:
        s = _settings(c, hosts=hosts, wheel=wheel, ssh_config=ssh_config, accept_new=accept_new)
        manifest = read_wheel(s.wheels, s.wheel) if s.wheel or read_wheels(s.wheels) else None
        with _fleet(s) as fleet:
            gathered = gather_facts(fleet)
        out.report(error_report(gathered.errors))
        out.report(compare(manifest, s.torch, gathered.facts), full=True)


@command
def deploy(c, hosts=None, wheel=None, ssh_config=None, accept_new=None, dry_run=False, json=False):
    """Give every host the same proved environment with the wheel, or none of them."""
    with show.answer(json) as out:
        s = _settings(c, hosts=hosts, wheel=wheel, ssh_config=ssh_config, accept_new=accept_new)
        spec = read_env_spec(CHECKOUT, s.wheels, read_wheel(s.wheels, s.wheel))
        with _fleet(s) as fleet:
            facts = _facts(out, fleet)
            out.require(compare(spec.manifest, s.torch, facts))
            plan = plan_deploy(spec, facts)
            out.plan(plan, stop=dry_run)
            fleet.apply(plan, out.say)
        out.add(hosts=deployed(spec, plan, facts))


ns = Collection(hosts_, parity, deploy)
ns.configure({"zerofleet": DEFAULTS})
