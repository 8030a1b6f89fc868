"""What a chaos run starts otherwise than `seonchak up` does. Pure: how a child was to be run in, how it is run out."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chaos.control import CONTROL_VARIABLE
from ops.child import ChildSpec

_ENDPOINTS = "SEONCHAK_ETCD_ENDPOINTS"
_PEER_FLAGS = ("--initial-cluster=", "--initial-advertise-peer-urls=")


def with_peers_behind(member: ChildSpec, fronts: Mapping[str, str]) -> ChildSpec:
    """An etcd member that tells the others, and is told of them, by what is in front of their peer ports.

    Args:
        fronts: HOST:PORT to dial, by the HOST:PORT that is listened on.
    """

    def told(flag: str) -> str:
        if flag.startswith(_PEER_FLAGS):
            for real, front in fronts.items():
                flag = flag.replace(f"http://{real}", f"http://{front}")
        return flag

    return replace(member, argv=tuple(map(told, member.argv)))


def with_own_member(node: ChildSpec, index: int) -> ChildSpec:
    """A node that asks the index-th etcd member first, and the others in order after it."""
    endpoints = node.env[_ENDPOINTS].split(",")
    first = index % len(endpoints)
    return replace(node, env={**node.env, _ENDPOINTS: ",".join(endpoints[first:] + endpoints[:first])})


def on_machine(node: ChildSpec, control: Path) -> ChildSpec:
    """A node whose clock and disk the control file commands."""
    env = {**node.env, CONTROL_VARIABLE: str(control.resolve())}
    return replace(node, argv=(sys.executable, "-P", "-m", "chaos.node"), env=env)
