"""`python -m chaos.crowd`: a crowd in a process of its own, for a flood. Prints what became of it as one JSON document.

Closed loop (`--callers`: each asks again when it was answered) or open loop (`--rate`: they come when they come).
"""

import asyncio
import json
import random
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Annotated

import typer

from chaos.http2 import Caller, request_headers
from ops.load_stats import percentile
from proto import coupon_pb2

PATH = "/coupon.v1.CouponService/IssueCoupon"
TICK_S = 0.005
GRANTED, FAILED, LATE = "granted", "failed", "late"


@dataclass(frozen=True, slots=True)
class CrowdSpec:
    router: str
    """HOST:PORT"""
    campaign_id: str
    user_prefix: str
    seconds: float
    callers: int = 0
    """Closed loop, if there is no rate."""
    rate: float = 0.0
    """Users a second."""
    connections: int = 16
    deadline_s: float = 3.0


class Crowd:
    """Every user asks once."""

    def __init__(self, spec: CrowdSpec) -> None:
        self._spec = spec
        self.outcomes: Counter[str] = Counter()
        self.asked = 0
        self.took_s: list[float] = []
        """Of every call that was answered."""
        self._open: OrderedDict[int, float] = OrderedDict()
        """Calls and when they were asked, oldest first. A dict would look for its first one among all that are gone."""
        self._callers: list[Caller] = []
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Until everybody is answered, or has given up."""
        spec, loop = self._spec, asyncio.get_running_loop()
        host, _, port = spec.router.rpartition(":")
        headers = request_headers(spec.router, PATH, f"{round(spec.deadline_s * 1e3)}m")
        try:
            for _ in range(spec.connections):
                _, caller = await loop.create_connection(lambda: Caller(headers, self._on_end), host, int(port))
                self._callers.append(caller)
            await (self._come() if spec.rate else self._keep_asking())
            while self._open:
                self._give_up(time.monotonic())
                await asyncio.sleep(TICK_S)
        finally:
            for caller in self._callers:
                caller.close()

    async def _come(self) -> None:
        spec, rng = self._spec, random.Random(self._spec.user_prefix)
        began_s = due_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + spec.seconds:
            while due_s <= now_s:
                self._ask(now_s)
                due_s += rng.expovariate(spec.rate)
            self._give_up(now_s)
            await asyncio.sleep(TICK_S)

    async def _keep_asking(self) -> None:
        until_s = time.monotonic() + self._spec.seconds
        while (now_s := time.monotonic()) < until_s:
            while len(self._open) < self._spec.callers:
                self._ask(now_s)
            self._give_up(now_s)
            self._answered.clear()
            try:
                async with asyncio.timeout(min(TICK_S * 10, until_s - now_s)):
                    await self._answered.wait()
            except TimeoutError:
                continue

    def _ask(self, now_s: float) -> None:
        number = self.asked
        self.asked += 1
        self._open[number] = now_s
        user_id = f"{self._spec.user_prefix}{number}"
        request = coupon_pb2.IssueCouponRequest(campaign_id=self._spec.campaign_id, user_id=user_id, request_id=user_id)
        self._callers[number % len(self._callers)].call(number, request.SerializeToString())

    def _on_end(self, number: int, succeeded: bool) -> None:
        asked_s = self._open.pop(number, None)
        if asked_s is not None:
            self.took_s.append(time.monotonic() - asked_s)
            self.outcomes[GRANTED if succeeded else FAILED] += 1
            self._answered.set()

    def _give_up(self, now_s: float) -> None:
        """On everybody who waits for longer than anybody would."""
        while self._open:
            number, asked_s = next(iter(self._open.items()))
            if now_s - asked_s < self._spec.deadline_s:
                return
            del self._open[number]
            self.outcomes[LATE] += 1
            self._callers[number % len(self._callers)].cancel(number)


def main(
    router: Annotated[str, typer.Argument(help="HOST:PORT")],
    campaign_id: Annotated[str, typer.Argument(metavar="CAMPAIGN")],
    user_prefix: str = "user-",
    seconds: Annotated[float, typer.Option(min=0.1)] = 10.0,
    callers: Annotated[int, typer.Option(min=1, help="Closed loop: so many.")] = 32,
    rate: Annotated[float, typer.Option(min=0.0, help="Open loop: users a second.")] = 0.0,
    connections: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    crowd = Crowd(CrowdSpec(router, campaign_id, user_prefix, seconds, callers, rate, connections))
    asyncio.run(crowd.run())
    took_s = sorted(crowd.took_s)
    latency_ms = {f"p{share * 100:g}": percentile(took_s, share) * 1e3 for share in (0.5, 0.99)} if took_s else {}
    outcomes = dict(crowd.outcomes.most_common())
    typer.echo(json.dumps({"asked": crowd.asked, "seconds": seconds, "outcomes": outcomes, "latency_ms": latency_ms}))


if __name__ == "__main__":
    typer.run(main)
