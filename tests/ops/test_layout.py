"""The data directory of a one-machine cluster: ports that stay, flags that are compared, one owner at a time."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from ops.layout import DataDirInUse, Layout, LayoutMismatch, data_dir_lock, load_layout, plan_layout
from ops.ports import ReservedPorts


def plan(data_dir: Path, **wanted: Any) -> Layout:
    asked: dict[str, Any] = {"journal": "etcd", "shards": 64, "nodes": 3, "routers": 2, "etcd_members": 3, "port": 0}
    with ReservedPorts() as reserved:
        return plan_layout(data_dir, **(asked | wanted), ports=reserved)


def ports(layout: Layout) -> list[int]:
    places = (*layout.etcd, *layout.nodes, *layout.routers)
    return [place.peer_port for place in layout.etcd] + [
        p for place in places for p in (place.port, place.metrics_port)
    ]


def test_a_new_layout_has_different_ports(tmp_path: Path) -> None:
    """Three ports of each member, two of each node and router: all different."""
    found = ports(plan(tmp_path))
    assert len(found) == len(set(found)) == 19


def test_a_saved_layout_says_what_to_scrape(tmp_path: Path) -> None:
    """One file a job, as Prometheus' file_sd reads it, with the processes' names."""
    layout = plan(tmp_path, nodes=2, routers=1)
    layout.save(tmp_path)
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "prometheus").iterdir()}
    assert set(found) == {"node", "router", "etcd"}
    second = layout.nodes[1]
    assert found["node"][1] == {"targets": [f"127.0.0.1:{second.metrics_port}"], "labels": {"instance": "node-1"}}
    assert found["etcd"][0]["targets"] == [layout.etcd[0].metrics_address]


def test_a_scraper_finds_the_ca(tmp_path: Path) -> None:
    """With TLS: beside what it scrapes, and always the one that there is now."""
    layout = plan(tmp_path, tls=True)
    (tmp_path / "certs").mkdir()
    for written in ("first", "second"):
        layout.save(tmp_path)
        (tmp_path / "certs" / "ca.crt").write_text(written)
        assert (tmp_path / "prometheus" / "ca.crt").read_text() == written


def test_a_layout_of_before_gets_metrics_ports(tmp_path: Path) -> None:
    """A cluster that was made by a version without them goes on, on its ports."""
    layout = plan(tmp_path)
    places = [*layout.etcd, *layout.nodes, *layout.routers]
    without = layout.model_dump(exclude={kind: {"__all__": {"metrics_port"}} for kind in ("etcd", "nodes", "routers")})
    (tmp_path / "cluster.json").write_text(json.dumps(without))
    assert [member.metrics_port for member in load_layout(tmp_path).members] == [0, 0, 0]
    again = plan(tmp_path)
    new = [*again.etcd, *again.nodes, *again.routers]
    assert [place.port for place in new] == [place.port for place in places]
    assert all(place.metrics_port for place in new)


def test_a_saved_layout_is_kept(tmp_path: Path) -> None:
    """Planned again, it is the same."""
    first = plan(tmp_path)
    first.save(tmp_path)
    assert load_layout(tmp_path) == first
    assert plan(tmp_path) == first


def test_nodes_and_routers_may_come_and_go(tmp_path: Path) -> None:
    """More or fewer of them: those that stay keep their ports."""
    first = plan(tmp_path)
    first.save(tmp_path)
    assert plan(tmp_path, nodes=5).nodes[:3] == first.nodes
    assert plan(tmp_path, nodes=1, routers=1).nodes == first.nodes[:1]


def test_a_port_that_was_taken_meanwhile_changes(tmp_path: Path) -> None:
    """Unless it is a peer port, which etcd itself remembers."""
    first = plan(tmp_path)
    first.save(tmp_path)
    thief = ("127.0.0.1", first.nodes[1].port)
    other = ("127.0.0.1", first.etcd[0].peer_port)
    with socket.create_server(thief), socket.create_server(other):
        second = plan(tmp_path)
    assert second.nodes[1].port != first.nodes[1].port
    assert second.nodes[0] == first.nodes[0]
    assert [place.peer_port for place in second.etcd] == [place.peer_port for place in first.etcd]


def test_routers_take_the_ports_that_were_asked_for(tmp_path: Path) -> None:
    """--port and the ones after it, also where an earlier run had others."""
    plan(tmp_path).save(tmp_path)
    assert plan(tmp_path, port=31_990).router_addresses == ("127.0.0.1:31990", "127.0.0.1:31991")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"shards": 8}, "--shards is 8, .* has 64"),
        ({"journal": "file"}, "--journal is file, .* has etcd"),
        ({"etcd_members": 1}, "--etcd-members is 1, .* has 3"),
    ],
)
def test_flags_that_cannot_change_are_refused(tmp_path: Path, wanted: dict[str, Any], named: str) -> None:
    """The message names the flag, what was asked and what is there."""
    plan(tmp_path).save(tmp_path)
    with pytest.raises(LayoutMismatch, match=named):
        plan(tmp_path, **wanted)


def test_a_file_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    """Nothing is guessed from half a file."""
    (tmp_path / "cluster.json").write_text('{"journal": "etcd"}')
    with pytest.raises(LayoutMismatch, match="not readable"):
        load_layout(tmp_path)


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    """A second one is refused while the first holds it, and not afterwards."""
    with data_dir_lock(tmp_path), pytest.raises(DataDirInUse, match="in use"), data_dir_lock(tmp_path):
        pass
    with data_dir_lock(tmp_path):
        pass
