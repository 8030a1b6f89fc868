"""Nobody gets in: wrong certificates, forged codes and page tokens, keys that were revoked. And no secret gets out."""

import asyncio
import random
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cluster.codes import ALPHABET
from cluster.keys import KeyRole
from cluster.roles import Role, uri_of
from cluster.tls import NODE_NAME
from ops.certs import issue
from ops.credentials import Credentials
from ops.layout import certs_dir
from proto import coupon_pb2 as pb
from proto import node_pb2
from proto.node_pb2_grpc import NodeServiceStub
from router.tokens import coupons_token
from tests.abuse import said
from tests.abuse.arena import CAMPAIGN, Arena, Record, Variant, arena
from tests.abuse.raw import Target, dial
from tests.router.http2.talk import HELLO
from tests.support.certs import certs_in

pytestmark = pytest.mark.cluster

MIB_MAX = 100
GUESSES = 500


@pytest.mark.parametrize("variant", [Variant("http2", True), Variant("grpcio", True), Variant("http2", False)], ids=str)
def test_entry(tmp_path: Path, record_property: Record, variant: Variant) -> None:
    with arena(tmp_path / "data", variant, record_property) as here:
        _, issuer = here.run(here.key(KeyRole.ISSUE))
        _, reader = here.run(here.key(KeyRole.READ))
        if variant.tls:
            with here.attack("wrong certificates", more_mib=MIB_MAX):
                here.run(wrong_certificates(here, tmp_path))
        with here.attack("guessed codes", more_mib=MIB_MAX):
            here.run(guessed_codes(here, issuer))
        with here.attack("forged page tokens", more_mib=MIB_MAX):
            here.run(forged_page_tokens(here, reader))
        with here.attack("keys that are none", more_mib=MIB_MAX):
            here.run(keys_that_are_none(here, issuer))
        with here.attack("a revoked key", more_mib=MIB_MAX):
            here.run(a_revoked_key(here, reader))
        here.run(no_secret_gets_out(here))
    check_nothing_is_written(here)


# --- certificates -----------------------------------------------------------------------------------------------------


async def wrong_certificates(here: Arena, tmp_path: Path) -> None:
    """At a node: none, another CA's, one that has expired: no handshake. One of a wrong role: no method. A CA that only
    the caller believes in does not make a router believe it either."""
    certs = certs_dir(here.data_dir)
    ca = (certs / "ca.crt").read_bytes()
    others = certs_in(tmp_path / "others")
    write_expired(certs, tmp_path)
    address = here.node.address
    strangers: dict[str, tuple[Path, Path] | None] = {
        "none": None,
        "another CA's": files(others, "router"),
        "signed by itself": files(others, "ca"),
        "expired": files(tmp_path, "expired"),
    }
    for name, identity in strangers.items():
        assert not await hears(Target(address, believing(certs, identity))), f"a node speaks to {name}"
    assert await hears(here.node), "a node does not speak to a router"
    may = {"router": {"Exchange", "GetStatus"}, "node": {"Handover", "GetStatus"}, "operator": {"Drain", "GetStatus"}}
    for name in ("router", "node", "operator", "etcd"):
        for method in {"Exchange", "Handover", "Drain", "GetStatus"} - may.get(name, set()):
            code = await at_node(here, shown(ca, *pair(certs, name)), method)
            assert code is grpc.StatusCode.PERMISSION_DENIED, f"{name}, {method}: {code}"
    assert await at_node(here, shown(ca, *pair(certs, "operator")), "GetStatus") is grpc.StatusCode.OK
    for target in (here.public, here.node):
        assert target.tls is not None
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(replace(target, tls=ssl.create_default_context(cafile=str(others / "ca.crt"))))


def shown(ca: bytes, certificate: bytes, key: bytes) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca, key, certificate)


def pair(directory: Path, name: str) -> tuple[bytes, bytes]:
    return (directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes()


def files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.crt", directory / f"{name}.key"


def believing(certs: Path, identity: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        context.load_cert_chain(*identity)
    return context


async def hears(target: Target) -> bool:
    """Whether anything is answered. A client of TLS 1.3 is through with its handshake before it is refused."""
    try:
        raw = await dial(target)
    except OSError:
        return False
    answered = await raw.answers()
    raw.cut()
    return answered or bool(raw.heard)


def write_expired(certs: Path, directory: Path) -> None:
    """A router's, of the right CA, good until the moment in which it was made."""
    certificate, ca_key = pair(certs, "ca")
    signing = load_pem_private_key(ca_key, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    role = x509.UniformResourceIdentifier(uri_of(Role.ROUTER, "router"))
    made = issue(x509.load_pem_x509_certificate(certificate), signing, key, "router", [role], days=0)
    (directory / "expired.crt").write_bytes(made.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "expired.key").write_bytes(pem)


async def at_node(here: Arena, credentials: grpc.ChannelCredentials, method: str) -> grpc.StatusCode:
    """What a node says to an empty call."""
    options = [("grpc.ssl_target_name_override", NODE_NAME), ("grpc.use_local_subchannel_pool", 1)]
    address = here.cluster.layout.nodes[0].address
    requests = {"GetStatus": node_pb2.GetStatusRequest(), "Drain": node_pb2.DrainRequest()}
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        stub = NodeServiceStub(channel)
        try:
            if method == "Exchange":
                call = stub.Exchange(timeout=10)
                await call.read()
            else:
                await getattr(stub, method)(requests.get(method, node_pb2.HandoverRequest()), timeout=10)
        except grpc.aio.AioRpcError as error:
            here.told.append(repr(error))
            return error.code()
        return grpc.StatusCode.OK


# --- codes and page tokens --------------------------------------------------------------------------------------------


async def guessed_codes(here: Arena, issuer: Credentials) -> None:
    """Codes of the right form, and a true one with each of its syllables changed: none is anybody's coupon."""
    rng = random.Random(7)
    async with here.caller(issuer) as stub:

        async def found(code: str) -> str:
            call = stub.GetCoupon(pb.GetCouponRequest(code=code), metadata=issuer.metadata, timeout=20)
            return await here.reason(call)

        request = pb.IssueCouponRequest(campaign_id="long", user_id="true")
        true = (await stub.IssueCoupon(request, metadata=issuer.metadata, timeout=20)).coupon.code
        assert await found(true) == ""
        head, tail = true[:-6], true[-6:]
        guesses = [head + "".join(rng.choices(ALPHABET, k=6)) for _ in range(GUESSES)]
        guesses += [
            head + tail[:at] + other + tail[at + 1 :]
            for at in range(6)
            for other in rng.sample(ALPHABET, 30)
            if other != tail[at]
        ]
        guesses += [true[:-7] + digit + tail for digit in "123456789"]
        for at in range(0, len(guesses), 100):
            heard = await asyncio.gather(*map(found, guesses[at : at + 100]))
            assert set(heard) == {"COUPON_NOT_FOUND"}
        for wrong in (tail, true[1:] + true[0], true + "가", "", "\0" * 10, "가" * 10_000, "../../etc/passwd"):
            assert await found(wrong) in ("COUPON_NOT_FOUND", "INVALID_FIELD"), wrong


async def forged_page_tokens(here: Arena, reader: Credentials) -> None:
    """Each bit flipped, another campaign's, another listing's: INVALID_FIELD. One that is well made but leads behind
    the end shows nothing, for a token gives no right that its bearer has not."""
    async with here.caller(reader) as stub:

        async def page(campaign: str, token: str, size: int = 2) -> pb.GetCampaignResponse:
            request = pb.GetCampaignRequest(campaign_id=campaign, page_token=token, page_size=size)
            answer: pb.GetCampaignResponse = await stub.GetCampaign(request, metadata=reader.metadata, timeout=20)
            return answer

        async def refused(campaign: str, token: str) -> str:
            request = pb.GetCampaignRequest(campaign_id=campaign, page_token=token)
            return await here.reason(stub.GetCampaign(request, metadata=reader.metadata, timeout=20))

        await here.served(3)
        token = (await page(CAMPAIGN, "")).next_page_token
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        flipped = [
            urlsafe_b64encode(bytes(byte ^ (1 << bit) * (n == at) for n, byte in enumerate(raw))).rstrip(b"=").decode()
            for at in range(len(raw))
            for bit in range(8)
        ]
        listed = await stub.ListCampaigns(pb.ListCampaignsRequest(page_size=1), metadata=reader.metadata, timeout=20)
        forged = [*flipped, listed.next_page_token, token[:-1], token + "=", token.upper(), "가", "A" * 5_000]
        assert set(await asyncio.gather(*(refused(CAMPAIGN, one) for one in forged))) == {"INVALID_FIELD"}
        assert await refused("long", token) == "INVALID_FIELD", "it is another campaign's"
        list_request = pb.ListCampaignsRequest(page_token=token)
        list_call = stub.ListCampaigns(list_request, metadata=reader.metadata, timeout=20)
        assert await here.reason(list_call) == "INVALID_FIELD"
        beyond = await page(CAMPAIGN, coupons_token(CAMPAIGN, 2**31 - 1))
        assert (list(beyond.coupons), beyond.next_page_token) == ([], "")


# --- keys -------------------------------------------------------------------------------------------------------------


async def keys_that_are_none(here: Arena, issuer: Credentials) -> None:
    """A good key that is cut, bent, doubled, or said in another way lets nobody in."""
    key = issuer.api_key
    prefix, key_id, secret = key.split("_", 2)
    bent = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    wrong = [
        "",
        "Bearer",
        "Bearer " + key[:-1],
        f"Bearer {prefix}_{key_id}_{bent}",
        f"Bearer {prefix}_{key_id}_",
        f"Bearer {prefix}_{'0' * 12}_{secret}",
        f"Bearer {key},Bearer {key}",
        f"Basic {key}",
        key,
        "Bearer " + "x" * 4_000,
    ]
    request = pb.IssueCouponRequest(campaign_id="long", user_id="nobody")
    async with here.caller(issuer) as stub:
        for authorization in wrong:
            call = stub.IssueCoupon(request, metadata=(("authorization", authorization),), timeout=20)
            assert await here.reason(call) == "KEY_INVALID", authorization[:7]
        twice = (("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}"))
        assert await here.reason(stub.IssueCoupon(request, metadata=twice, timeout=20)) == "KEY_INVALID"


async def a_revoked_key(here: Arena, reader: Credentials) -> None:
    """On connections that are open: the next call is refused, and streams that had begun and were served before end,
    though nothing more is asked on them."""
    key_id, revoked = await here.key(KeyRole.ISSUE)

    def item(user: str) -> pb.IssueCouponsRequest:
        request = pb.IssueCouponRequest(campaign_id="long", user_id=user)
        return pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=1, request=request)])

    async with here.caller(revoked) as stub:
        unary = pb.IssueCouponRequest(campaign_id="long", user_id="before")
        await stub.IssueCoupon(unary, metadata=revoked.metadata, timeout=20)
        streams = [stub.IssueCoupons(metadata=revoked.metadata) for _ in range(3)]
        for n, stream in enumerate(streams):
            await stream.write(item(f"before-{n}"))
            answer = await stream.read()
            assert answer.results[0].HasField("response")
        await here.revoke(key_id)
        while not (why := await here.reason(stub.IssueCoupon(unary, metadata=revoked.metadata, timeout=20))):
            await asyncio.sleep(0.02)
        assert why == "KEY_INVALID"
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await rest(stream)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            here.told.append(repr(error.value))
    async with here.caller(reader) as stub:
        request = pb.GetCampaignRequest(campaign_id="long", page_size=1_000)
        page = await stub.GetCampaign(request, metadata=reader.metadata, timeout=20)
    users = {coupon.user_id for coupon in page.coupons}
    assert {"before", "before-0", "before-1", "before-2", "true"} == users


async def rest(stream: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    """To its end, which is an error. No further item was granted."""
    while True:
        answer: Any = await stream.read()
        assert isinstance(answer, pb.IssueCouponsResponse), "the stream ended well"
        assert not any(result.HasField("response") for result in answer.results)


# --- secrets ----------------------------------------------------------------------------------------------------------


async def no_secret_gets_out(here: Arena) -> None:
    """What anybody may read without a key: the operators' ports. Everything else was kept as it came."""
    for name, target in zip(("router", "node"), here.operators, strict=True):
        for path in ("metrics", "healthz", "readyz", "nothing"):
            for accept in ("text/plain", "application/openmetrics-text"):
                sent = f"GET /{path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
                raw = await dial(target, sent.encode())
                await raw.ended()
                raw.cut()
                assert raw.heard.startswith(b"HTTP/1.1 "), f"{name} /{path}"
                here.told.append(raw.heard.decode())
    raw = await dial(here.public, HELLO + said.Call(f"{said.SERVICE}/None", here.bystander.who).begin(1))
    await raw.answers()
    raw.cut()
    here.told.append(raw.heard.decode("latin-1"))
    await here.collect_secrets()


def check_nothing_is_written(here: Arena) -> None:
    texts = {path.name: path.read_text(errors="replace") for path in (here.data_dir / "logs").iterdir()}
    texts["what callers were told"] = "\n".join(here.told)
    assert "seonchak_" in texts["what callers were told"], "no metrics were looked at"
    assert "COUPON_NOT_FOUND" in texts["what callers were told"]
    kinds = {name.split(",")[0].split(" ")[0] for name in here.secrets}
    assert {"key", "router.key", "node.key", "ca.key"} <= kinds or not here.variant.tls
    assert here.leaks(texts) == []
    for name, secret in here.secrets.items():
        assert here.leaks({"planted": f"...{secret}..."}), f"{name} would not be seen"
