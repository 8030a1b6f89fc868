"""Is this a command line that docker, etcdctl or kubectl would take? For what documents tell people to type.

There is nothing here to run them in: what each knows is written down from its documentation, and no more of it than
the documents and ops/compose_roll.sh use. Services and volumes have to be those of docker-compose.yml, objects those of
ops/kubernetes.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tests.ops.command_line import problems
from tests.ops.deployment import compose, etcds, everything_in_kubernetes, ours, services

FLAGS: Mapping[str, tuple[str, str]] = {
    # command: (flags that stand alone, flags that need a value)
    # docs.docker.com/reference/cli/docker
    "docker inspect": ("", "--format"),
    "docker rm": ("", ""),
    "docker stop": ("", ""),
    "docker tag": ("", ""),
    "docker volume rm": ("", ""),
    "docker compose build": ("", ""),
    "docker compose down": ("", ""),
    "docker compose exec": ("", ""),
    "docker compose logs": ("--no-log-prefix", ""),
    "docker compose ps": ("--all --quiet", ""),
    "docker compose rm": ("--stop --force", ""),
    "docker compose run": ("--rm -d --no-deps -T", "-v --name"),
    "docker compose stop": ("", ""),
    "docker compose up": (
        "-d --build --no-build --wait --no-deps --no-recreate --force-recreate",
        "--scale",
    ),
    # etcd.io/docs/v3.6/op-guide
    "etcd": ("--force-new-cluster", "--name --data-dir --listen-client-urls --advertise-client-urls"),
    "etcdctl alarm disarm": ("", ""),
    "etcdctl defrag": ("", ""),
    "etcdctl endpoint health": ("", ""),
    "etcdctl endpoint status": ("--cluster", ""),
    "etcdctl member add": ("", "--peer-urls"),
    "etcdctl member list": ("", ""),
    "etcdctl member remove": ("", ""),
    "etcdctl move-leader": ("", ""),
    "etcdctl put": ("", ""),
    "etcdctl snapshot save": ("", ""),
    "etcdutl snapshot restore": ("", "--data-dir"),
    # kubernetes.io/docs/reference/kubectl
    "kubectl apply": ("", "--filename"),
    "kubectl cordon": ("", ""),
    "kubectl create configmap": ("", "--from-file --from-literal"),
    "kubectl create namespace": ("", ""),
    "kubectl create secret generic": ("", "--from-file --from-literal --dry-run --output"),
    "kubectl delete": ("", "--wait"),
    "kubectl drain": ("--ignore-daemonsets", ""),
    "kubectl exec": ("", ""),
    "kubectl logs": ("", "--selector --tail"),
    "kubectl port-forward": ("", ""),
    "kubectl rollout restart": ("", ""),
    "kubectl rollout status": ("", ""),
    "kubectl scale": ("", "--replicas"),
    "kubectl set image": ("", ""),
}
COMMON = {"etcdctl": " --endpoints --write-out", "kubectl": " --namespace"}
"""Flags with a value that each command of the tool takes."""


def wrong(line: str) -> list[str]:
    """What is wrong with a command line; pipes and redirections end it. Empty: it would be taken."""
    words = shlex.split(line, comments=True)
    for end in ("|", "&", "&&", ">", ";"):
        if end in words:
            words = words[: words.index(end)]
    return list(_wrong(words))


def _wrong(words: Sequence[str]) -> Iterator[str]:
    if list(words[1:]) == ["..."]:
        return  # only names the tool
    names = [name for name in FLAGS if _command(words, name)]
    if not names:
        yield f"no command that is known here: {' '.join(words)}"
        return
    name = max(names, key=len)
    alone, valued = FLAGS[name]
    known = (alone.split(), (valued + COMMON.get(words[0], "")).split())
    positional, values, after, unknown = _parse(words, name, known)
    yield from (f"`{name}` has no {flag}" for flag in unknown)
    if name.startswith("docker compose"):
        yield from _of_compose(name, positional, values, words)
    elif name == "docker volume rm":
        volumes = {f"{compose()['name']}_{volume}" for volume in compose()["volumes"]}
        yield from (f"no volume {volume}" for volume in positional if volume not in volumes)
    elif name == "kubectl exec":
        yield from _in_container(after)
    if name.startswith("kubectl"):
        yield from _of_kubectl(positional)


def _command(words: Sequence[str], name: str) -> bool:
    """Are these words that command? Flags of the tool may stand between its name and the rest."""
    tool, *rest = name.split()
    if words[:1] != [tool]:
        return False
    bare = list(words[1:])
    while bare and bare[0].startswith("--"):
        bare = bare[1:] if "=" in bare[0] else bare[2:]
    return bare[: len(rest)] == rest


def _parse(
    words: Sequence[str], name: str, known: tuple[list[str], list[str]]
) -> tuple[list[str], list[tuple[str, str]], list[str], list[str]]:
    """(arguments, flags with their values, what stands after `--`, flags that the command does not have)"""
    alone, valued = known
    positional: list[str] = []
    values: list[tuple[str, str]] = []
    unknown: list[str] = []
    rest = list(words[1:])
    for word in name.split()[1:]:
        rest.remove(word)
    # What is run in a container has flags of its own.
    inner = name in ("docker compose run", "docker compose exec")
    while rest:
        word = rest.pop(0)
        if word == "--":
            return positional, values, rest, unknown
        if not word.startswith("-") or (inner and positional):
            positional.append(word)
            continue
        flag, given, value = word.partition("=")
        if flag in valued and (given or rest):
            values.append((flag, value if given else rest.pop(0)))
        elif flag in alone and not given:
            values.append((flag, ""))
        else:
            unknown.append(flag)
    return positional, values, [], unknown


def _of_compose(name: str, positional: list[str], values: list[tuple[str, str]], words: Sequence[str]) -> Iterator[str]:
    inner = name in ("docker compose run", "docker compose exec")
    named = positional[:1] if inner else positional
    yield from (f"no service {service}" for service in named if service not in services())
    scaled = {value.partition("=")[0] for flag, value in values if flag == "--scale"}
    yield from (f"--scale {service}: it is not replicated" for service in scaled if not _replicated(service))
    if inner and named and named[0] in services():
        yield from _in_service(named[0], positional[1:])
    flags = {flag for flag, _ in values}
    if name == "docker compose up" and "--no-recreate" not in flags:
        at_once = scaled | {service for service in positional if _replicated(service)}
        if "--force-recreate" in flags:
            at_once |= {"everything"}
        yield from (f"all replicas of {service} at once: {' '.join(words)}" for service in sorted(at_once))


def _replicated(service: str) -> bool:
    return "replicas" in services().get(service, {}).get("deploy", {})


def _in_service(service: str, command: list[str]) -> Iterator[str]:
    if service in ours():
        yield from problems([word for word in command if word != "..."] or ["--help"])
    elif service in etcds():
        yield from _in_container(command)


def _in_container(command: list[str]) -> Iterator[str]:
    if command[:1] == ["seonchak"]:
        yield from problems(command[1:])
    else:
        yield from _wrong(command)


def _of_kubectl(positional: list[str]) -> Iterator[str]:
    """kind/name, or kind and name: those of the manifests; a pod is one of a StatefulSet."""
    found = everything_in_kubernetes()
    pods = {
        f"{name}-{index}"
        for (kind, name), of in found.items()
        if kind == "statefulset"
        for index in range(of["spec"]["replicas"])
    }
    named = [tuple(word.split("/")) for word in positional if word.count("/") == 1 and "=" not in word]
    named += [pair for pair in pairwise(positional) if pair[0] in {kind for kind, _ in found} | {"pod"}]
    for kind, name, *_ in named:
        if kind == "pod":
            if name not in pods:
                yield f"no pod {name}"
        elif (kind, name) not in found:
            yield f"no {kind} {name} in ops/kubernetes"
