"""What it costs to know a caller and to decide, in this process; and signatures while an issuer of tokens hangs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from sealkeeper.server.authorization import Action
from sealkeeper.server.certificate_identity import CertificateAuthenticator
from sealkeeper.server.grant import GrantOrder
from sealkeeper.server.identity import Caller, Method, Principal, Role
from sealkeeper.server.identity_settings import IssuerSettings, SpiffeRule, TrustDomainSettings
from sealkeeper.server.people import People
from sealkeeper.server.token_identity import TokenAuthenticator
from tests.e2e.running import ANY_PORT, DOMAIN, P256, PARENT, TENANT, Running
from tests.oidc_issuer import DISCOVERY, SLOW, Issuer, oidc_issuer
from tests.server.policy_house import CUSTODIAN, KEY, PolicyHouse, Record, policy_house
from tests.server.svids import Bundles, Ca

AUDIENCE = f"https://{DOMAIN}"
REPOSITORY = "acme-org/app"
WORKLOADS = "prod.example.org"
GRANTS = 1000
FIRST, AGAIN = 300, 20_000
Authenticate = Callable[[Caller, datetime], Awaitable[Principal]]


async def measure_identity() -> None:
    """Print what one decision and one authentication take, on one processor."""
    print("\nto know a caller                                      µs")
    await _measure_tokens()
    await _measure_certificates()
    print("to decide whether a job may sign                      µs")
    with TemporaryDirectory() as folder:
        async with policy_house(Path(folder)) as house:
            await _measure_decisions(house)


def _show(name: str, seconds: float) -> None:
    print(f"{name:>46} {seconds * 1e6:>9,.1f}")


async def _measure_tokens() -> None:
    rules = [{"claims": {"sub": "*"}, "tenant": TENANT, "role": "ci"}]
    with oidc_issuer() as issuer:
        settings = IssuerSettings.model_validate({"issuer": issuer.url, "kind": "github", "principals": rules})
        of_algorithm = {"RS256": issuer.keys[-1], "ES256": issuer.rotate("ES256")}
        started = datetime.now(UTC).replace(microsecond=0)
        tokens = TokenAuthenticator(DOMAIN, {"one": settings}, People({}, {}), started)
        await tokens.start()
        for algorithm, key in of_algorithm.items():
            issuer.keys.append(key)
            callers = [_caller(issuer.token("github", AUDIENCE)) for _ in range(FIRST + 1)]
            await tokens.authenticate(callers.pop(), datetime.now(UTC))
            _show(f"token, {algorithm}, first", await _each(tokens.authenticate, callers))
        _show("token, known", await _each(tokens.authenticate, callers[-1:] * AGAIN))
        await tokens.close()


def _caller(token: str) -> Caller:
    return Caller({}, {"authorization": f"Bearer {token}"}, "ipv4:192.0.2.1:50000")


async def _measure_certificates() -> None:
    ca = Ca.make(datetime.now(UTC))
    rule = SpiffeRule(path="/ns/{namespace}/sa/{service_account}", tenant=TENANT, role=Role.CI)
    domains = {WORKLOADS: TrustDomainSettings(bundle=Path("prod.pem"), principals=[rule])}
    bundles = Bundles.of({WORKLOADS: [ca.certificate]})
    certificates = CertificateAuthenticator(DOMAIN, bundles, domains, People({}, {}))
    callers = [ca.issue(f"spiffe://{WORKLOADS}/ns/build/sa/job-{number}").caller for number in range(FIRST)]
    _show("certificate, P-256, first", await _each(certificates.authenticate, callers))
    _show("certificate, known", await _each(certificates.authenticate, callers[-1:] * AGAIN))


async def _each(authenticate: Authenticate, callers: Sequence[Caller]) -> float:
    """Seconds of one."""
    now, started = datetime.now(UTC), time.perf_counter()
    for caller in callers:
        await authenticate(caller, now)
    return (time.perf_counter() - started) / len(callers)


async def _measure_decisions(house: PolicyHouse) -> None:
    await house.put_key({"repository": REPOSITORY})
    _show("first", _decide(house, _jobs("early")))
    _show("remembered", _decide(house, _jobs("early")[:1] * AGAIN))
    for number in range(GRANTS):
        order = GrantOrder(
            f"job {number}", KEY, (Action.SIGN,), timedelta(hours=1), "a release", CUSTODIAN.subject, break_glass=False
        )
        await house.grants.create(order, Record())
    with_grants = f"with {GRANTS:,} grants"
    _show(f"first after a change, {with_grants}", _decide(house, _jobs("new")[:1]))
    _show(f"first, of one without, {with_grants}", _decide(house, _jobs("late")))
    _show(f"first, of one with one, {with_grants}", _decide(house, _jobs("job")))
    _show(f"remembered, {with_grants}", _decide(house, _jobs("job")[:1] * AGAIN))


def _jobs(name: str) -> list[Principal]:
    attributes = ("ref_protected", "true"), ("repository", REPOSITORY)
    return [
        Principal(TENANT, f"{name} {number}", Role.CI, method=Method.TOKEN, attributes=attributes)
        for number in range(FIRST)
    ]


def _decide(house: PolicyHouse, principals: Sequence[Principal]) -> float:
    """Seconds of one."""
    started = time.perf_counter()
    for principal in principals:
        assert house.authorizer.decide(principal, Action.SIGN, KEY, "192.0.2.1", house.now).allowed
    return (time.perf_counter() - started) / len(principals)


@contextmanager
def gateway_with_tokens(folder: Path) -> Iterator[tuple[Running, Issuer, str, str]]:
    """A gateway, an issuer whose tokens it takes, a token for any connection, and a key that it may sign with."""
    with oidc_issuer() as issuer:
        # So that the keys are asked for again soon.
        issuer.max_age, issuer.lifetime = 10, 3600
        rules = f'principals = [{{ claims = {{ sub = "*" }}, tenant = "{TENANT}", role = "ci" }}]'
        section = f'[issuers.jobs]\nissuer = "{issuer.url}"\nkind = "github"\nreplay = "none"\n{rules}\n'
        gateway = Running.make(folder / "tokens")
        gateway.change_settings(
            lambda text: text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1) + section
        )
        with gateway.running():
            with gateway.client("custodian") as custodian:
                made = custodian.create_key(PARENT, "release", P256, labels={"repository": REPOSITORY})
            yield gateway, issuer, issuer.token("github", AUDIENCE, repository=REPOSITORY), made.key.name


def hang(issuer: Issuer) -> None:
    """Let an issuer hang, and wait until it is asked."""
    issuer.behave(SLOW)
    before = issuer.count(DISCOVERY)
    issuer.wait_until(lambda: issuer.count(DISCOVERY) > before, 60)
