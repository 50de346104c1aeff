"""The command that opens ports on a host, for the firewall that is there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provision.hosts.facts import HostFacts


def opening(
    host: str, facts: HostFacts, sources: Mapping[str, str], ports: str, protocol: str = "tcp"
) -> str:
    """How to let ``ports`` ("29500", "32768-60999") in on a host, as a line to paste.

    ``sources``: host → the address that it comes from. ``protocol``: tcp or udp.
    """
    addresses = list(sources.values())
    where = f"on {host}, as root"
    both = ",".join(addresses)
    tool = facts["firewall.tool"].value
    if tool == "firewalld":
        adds = " ".join(f"--add-source={each}" for each in addresses)
        command = f"firewall-cmd --permanent --zone=trusted {adds} && firewall-cmd --reload"
        return f"{where}: {command}"
    if tool == "ufw":
        span = ports.replace("-", ":")
        rules = [f"ufw allow proto {protocol} from {each} to any port {span}" for each in addresses]
        return f"{where}: {' && '.join(rules)}"
    if tool == "nft":
        version = "ip6" if ":" in both else "ip"
        chain = _input_chain(facts)
        rule = f"{version} saddr {{ {both} }} {protocol} dport {ports} accept"
        return f"{where}: nft insert rule {chain} '{rule}'"
    if tool == "iptables":
        command = "ip6tables" if ":" in both else "iptables"
        span = ports.replace("-", ":")
        return f"{where}: {command} -I INPUT -p {protocol} -s {both} --dport {span} -j ACCEPT"
    return (
        f"open {protocol.upper()} {ports} for {both} on {host} and on the way to it "
        f"(as root there: nft list ruleset, or iptables -S)"
    )


def mending(
    listener: str,
    sources: Mapping[str, str],
    ports: str,
    facts: Mapping[str, HostFacts],
    protocol: str = "tcp",
) -> str:
    """What to do about ``ports`` of a host that ``sources`` don't reach.

    A host known to filter nothing is not told to open anything: then it is the other end's firewall
    that drops the replies, or something between them.
    """
    if not facts[listener]["firewall"].absent:
        return opening(listener, facts[listener], sources, ports, protocol)
    filters = [source for source in sources if not facts[source]["firewall"].absent]
    if filters:
        return (
            f"{listener} filters nothing: look at the rules of {', '.join(filters)} for what drops "
            "replies, or what goes out (as root there: nft list ruleset)"
        )
    return (
        f"no host here filters that: open {protocol.upper()} {ports} between {', '.join(sources)} "
        f"and {listener} (security groups, switches, routers)"
    )


def _input_chain(facts: HostFacts) -> str:
    """The nft chain that incoming packets meet: "inet filter input" where nothing says another."""
    policies = (facts["firewall"].value or {}).get("policies", {})
    names = [name for name in policies if name.split()[-1].lower() in ("input", "in")]
    return str(next(iter(names or policies), "inet filter input"))
