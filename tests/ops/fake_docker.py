"""`docker` as far as ops/compose_roll.sh goes: containers of one service in a file. Docker's rules, from its documents:

Without --no-recreate `up` recreates whatever has another image than the present one, all at the same time. What is
stopped counts as there, and `up` starts it. With --wait it fails where one is not healthy. `stop` leaves a container,
with its exit code; what runs cannot be removed.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

STATE = Path(__file__).with_name("state.json")


class World:
    def __init__(self) -> None:
        self.state: dict[str, Any] = json.loads(STATE.read_text())
        self.containers: dict[str, dict[str, Any]] = self.state["containers"]

    def save(self) -> None:
        running = sum(of["running"] for of in self.containers.values())
        self.state["least"] = min(self.state["least"], running)
        self.state["most"] = max(self.state["most"], len(self.containers))
        STATE.write_text(json.dumps(self.state))

    def create(self) -> None:
        number = self.state["next"]
        self.state["next"] += 1
        self.containers[f"c{number}"] = {"image": self.state["image"], "running": True, "code": 0}

    def up(self, words: list[str]) -> int:
        assert {"-d", "--no-deps", "--wait"} <= set(words), "it would not come back, or start other services"
        count = int(words[words.index("--scale") + 1].partition("=")[2])
        if "--no-recreate" not in words:
            for of in self.containers.values():
                of["running"] = of["running"] and of["image"] == self.state["image"]
            self.save()
            for of in self.containers.values():
                of["image"] = self.state["image"]
        for of in self.containers.values():
            of["running"] = True
        while len(self.containers) < count:
            self.create()
        return int(self.state["sick"])

    def run(self, words: list[str]) -> int:
        self.state["lines"].append(shlex.join(["docker", *words]))
        match words:
            case ["compose", "ps", *flags, "node"]:
                shown = [name for name, of in self.containers.items() if of["running"] or "--all" in flags]
                sys.stdout.write("\n".join(shown))
            case ["compose", "up", *rest, "node"]:
                return self.up(rest)
            case ["compose", "run", "--rm", *_, "cli", "status"]:
                self.state["asked"] += 1
                return 0 if self.state["served_after"] < self.state["asked"] else 1
            case ["stop", name]:
                assert self.state["asked"] > self.state["served_after"], "shards are on their way"
                self.state["asked"] = 0
                self.containers[name] |= {"running": False, "code": self.state["stop_code"]}
            case ["inspect", "--format", "{{.State.ExitCode}}", name]:
                sys.stdout.write(str(self.containers[name]["code"]))
            case ["rm", name]:
                assert not self.containers[name]["running"], "it runs"
                del self.containers[name]
            case _:
                raise AssertionError(f"not known here: {words}")
        return 0


if __name__ == "__main__":
    world = World()
    code = world.run(sys.argv[1:])
    world.save()
    sys.exit(code)
