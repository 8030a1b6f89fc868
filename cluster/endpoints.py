"""Which of etcd's endpoints is asked, how long an answer may take, and whether it can be believed.

One endpoint is asked at a time, in the order given; one that does not answer is left for the next. Whether a question
may be asked twice is not decided here: `once` and `until_answered` are the caller's choice.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from cluster.kv import TOO_MANY_REQUESTS, EtcdRefused, EtcdRpc, EtcdUnavailable
from cluster.types import Revision

log = structlog.get_logger()

PAUSE_FIRST_S = 0.02
PAUSE_MAX_S = 0.5


class RevisionWentBack(Exception):
    """The store's revision is lower than one seen before the question was asked: an etcd restored from a snapshot.

    Whoever holds something by a revision must let go of it. A Txn that raises this was executed, on that store. Every
    question raises it until a watch has listed anew.
    """


class Revised(Protocol):
    """A linearizable answer: what stood at a revision that is not older than the question."""

    @property
    def revision(self) -> Revision: ...


Answer = TypeVar("Answer")
RevisedAnswer = TypeVar("RevisedAnswer", bound=Revised)
Question = Callable[[EtcdRpc], Awaitable[Answer]]


class Observer(Protocol):
    """Whoever wants to know how long etcd takes."""

    def now(self) -> float:
        """Seconds, of any clock that never steps."""
        ...

    def asked(self, outcome: str, took_s: float) -> None:
        """A question was "answered", "refused" or remained "unanswered"."""
        ...


class _Unobserved:
    def now(self) -> float:
        return 0.0

    def asked(self, outcome: str, took_s: float) -> None: ...


class Endpoint:
    """One endpoint, dialled when first needed."""

    def __init__(self, address: str, dial: Callable[[str], EtcdRpc]) -> None:
        self.address = address
        self.proved_s = float("-inf")
        """Loop time at which the newest linearizable question that it has answered was asked."""
        self.silent = False
        """It did not answer the last question."""
        self._dial = dial
        self._rpc: EtcdRpc | None = None

    @property
    def rpc(self) -> EtcdRpc:
        if self._rpc is None:
            self._rpc = self._dial(self.address)
        return self._rpc

    async def close(self) -> None:
        if self._rpc is not None:
            await self._rpc.close()


class Endpoints:
    def __init__(
        self, addresses: Sequence[str], dial: Callable[[str], EtcdRpc], *, rng: random.Random, answer_max_s: float
    ) -> None:
        """`answer_max_s`: an answer missing for so long changes the endpoint."""
        assert addresses, "no endpoints"
        self.answer_max_s = answer_max_s
        self._endpoints = [Endpoint(address, dial) for address in addresses]
        self._index = 0
        self.observer: Observer = _Unobserved()
        self._rng = rng
        self._seen = Revision(0)
        self.proved_s = float("-inf")
        """Loop time at which the newest linearizable question that was answered, by any endpoint, was asked."""
        self._era = 0

    @property
    def seen(self) -> Revision:
        """The highest revision that this process has heard of, since the last step back."""
        return self._seen

    @property
    def era(self) -> int:
        """How often the store was found to have stepped back and was listed anew. Nothing known from an earlier era
        holds."""
        return self._era

    @property
    def current(self) -> Endpoint:
        return self._endpoints[self._index]

    def leave(self, endpoint: Endpoint, why: Exception) -> None:
        """It did not answer: ask the next one from now on, unless somebody else has moved on already."""
        if not endpoint.silent:
            endpoint.silent = True
            log.warning("etcd_endpoint_silent", endpoint=endpoint.address, why=str(why))
        if self.current is endpoint:
            self._index = (self._index + 1) % len(self._endpoints)

    def heard(self, endpoint: Endpoint) -> None:
        if endpoint.silent:
            endpoint.silent = False
            log.info("etcd_endpoint_answers", endpoint=endpoint.address)

    async def once(self, question: Question[Answer], *, at: Endpoint | None = None) -> Answer:
        """Asks one endpoint (`at`, else the current one) once.

        Raises:
            EtcdUnavailable: no answer within `answer_max_s`; the endpoint is left.
            EtcdRefused: a definite no.
        """
        endpoint = at or self.current
        asked_s = self.observer.now()
        outcome = "unanswered"
        try:
            async with asyncio.timeout(self.answer_max_s) as answering:
                answer = await question(endpoint.rpc)
            outcome = "answered"
        except EtcdRefused:
            outcome = "refused"
            raise
        except TimeoutError:
            assert answering.expired()
            missing = EtcdUnavailable(f"no answer from {endpoint.address} in {self.answer_max_s} s")
            self.leave(endpoint, missing)
            raise missing from None
        except EtcdUnavailable as error:
            self.leave(endpoint, error)
            raise
        finally:
            self.observer.asked(outcome, self.observer.now() - asked_s)
        self.heard(endpoint)
        return answer

    async def once_believed(self, question: Question[RevisedAnswer], *, at: Endpoint | None = None) -> RevisedAnswer:
        """As `once`, for a linearizable question.

        Raises:
            RevisionWentBack: the answer is older than what was seen before it was asked.
        """
        endpoint = at or self.current
        era, floor, asked_s = self._era, self._seen, asyncio.get_running_loop().time()
        answer = await self.once(question, at=endpoint)
        if answer.revision < floor:
            raise RevisionWentBack(f"revision {answer.revision} from {endpoint.address}, {floor} was seen before")
        self.require_era(era)
        self._seen = max(self._seen, answer.revision)
        endpoint.proved_s = max(endpoint.proved_s, asked_s)
        self.proved_s = max(self.proved_s, asked_s)
        return answer

    async def until_answered(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeats `ask` (which asks `once` or `once_believed`) until there is an answer, or the caller's
        asyncio.timeout ends it. Waits between rounds over all endpoints, and while etcd says that it is busy.

        Raises:
            EtcdRefused: any other definite no.
        """
        failures = 0
        while True:
            try:
                return await ask()
            except EtcdUnavailable:
                failures += 1
                await asyncio.sleep(self.pause_s(failures))
            except EtcdRefused as refused:
                if refused.reason != TOO_MANY_REQUESTS:
                    raise
                failures += len(self._endpoints)
                await asyncio.sleep(self.pause_s(failures))

    async def read(self, question: Question[RevisedAnswer], *, believe: bool = True) -> RevisedAnswer:
        """A linearizable question that writes nothing, repeated until answered. `believe` False: by a store that has
        stepped back too.

        Raises:
            RevisionWentBack: unless `believe` is False.
        """
        ask = self.once_believed if believe else self.once
        return await self.until_answered(lambda: ask(question))

    async def each(self, question: Question[Answer]) -> list[Answer]:
        """Asks every endpoint once, all at a time; who does not answer, or refuses, is left out."""
        answers = await asyncio.gather(
            *(self.once(question, at=endpoint) for endpoint in self._endpoints), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, (EtcdUnavailable, EtcdRefused)):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def pause_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row: not at all while an endpoint is left to try, else for a
        jittered, growing time."""
        rounds, tried = divmod(failures, len(self._endpoints))
        if tried:
            return 0.0
        longest_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(rounds, 10))
        return self._rng.uniform(longest_s / 2, longest_s)

    def saw(self, revision: Revision, *, era: int) -> None:
        """A watch begun in `era` has brought this revision.

        Raises:
            RevisionWentBack: that era is over.
        """
        self.require_era(era)
        self._seen = max(self._seen, revision)

    def require_era(self, era: int) -> None:
        if self._era != era:
            raise RevisionWentBack("the store has stepped back since")

    def begin_again(self, revision: Revision, *, era: int) -> None:
        """The store, found in `era` to have stepped back, was listed anew at `revision`. The first of several watches
        that say so begins the next era."""
        if self._era == era:
            log.error("etcd_revision_went_back", seen=self._seen, revision=revision)
            self._era += 1
            self._seen = revision

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()
