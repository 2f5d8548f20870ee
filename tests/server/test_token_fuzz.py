"""Whatever comes as a token, the answer is the right principal or a refusal that the contract knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sealkeeper.server.errors import SealkeeperError
from sealkeeper.server.identity import Caller, Principal
from sealkeeper.server.identity_settings import IssuerKind, IssuerSettings
from sealkeeper.server.people import People
from sealkeeper.server.token_identity import TokenAuthenticator
from tests.oidc_issuer import Key, claims_of, compact, encoded

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
URL = "https://issuer.example"
KINDS: tuple[IssuerKind, ...] = ("github", "gitlab", "buildkite", "circleci", "kubernetes", "generic")
REFUSED = {
    "TOKEN_MALFORMED",
    "TOKEN_TOO_LARGE",
    "TOKEN_UNSIGNED",
    "TOKEN_ALGORITHM_REFUSED",
    "TOKEN_ISSUER_UNKNOWN",
    "TOKEN_AUDIENCE_REFUSED",
    "TOKEN_EXPIRED",
    "TOKEN_NOT_YET_VALID",
    "TOKEN_LIFETIME_REFUSED",
    "TOKEN_KEY_UNKNOWN",
    "TOKEN_SIGNATURE_INVALID",
    "TOKEN_REPLAYED",
    "PRINCIPAL_UNKNOWN",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = ("alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "cty", "")
CLAIMS = sorted({"iss", "aud", "exp", "iat", "nbf", *(name for kind in KINDS[:5] for name in claims_of(kind)), "email"})
FUZZ = settings(max_examples=300, deadline=None)


class Gate:
    """An authenticator of every kind of issuer, their one key in a file, and a loop to run it in."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.key = Key.make(algorithm)
        file = folder / "jwks.json"
        file.write_text(json.dumps({"keys": [self.key.public]}))
        rule = {"claims": {"sub": "*"}, "tenant": "acme", "role": "custodian", "person": "{sub}"}
        issuers: dict[str, IssuerSettings] = {
            kind: IssuerSettings.model_validate(
                {"issuer": f"{URL}/{kind}", "kind": kind, "jwks_file": file, "principals": [rule]}
                | {"algorithms": ["RS256", "PS256", "ES256"], "protected_refs": ["refs/tags/*"]}
            )
            for kind in KINDS
        }
        self.loop = asyncio.new_event_loop()
        self.tokens = TokenAuthenticator("gateway.example", issuers, People({}, {}), NOW)
        self.loop.run_until_complete(self.tokens.start())

    def close(self) -> None:
        self.loop.run_until_complete(self.tokens.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def ask(self, authorization: str | bytes, peer: str = "ipv4:192.0.2.1:1") -> Principal | str:
        """The principal, or the reason."""
        caller = Caller({}, {"authorization": authorization}, peer)
        try:
            return self.loop.run_until_complete(self.tokens.authenticate(caller, NOW))
        except SealkeeperError as error:
            refused = error
        assert refused.reason in REFUSED
        assert refused.__cause__ is None
        assert refused.__context__ is None
        return refused.reason

    def claims(self, kind: str, changes: dict[str, Any]) -> dict[str, Any]:
        made = "person" if kind == "generic" else kind
        times = {"iat": SECONDS, "exp": SECONDS + 300}
        return {"iss": f"{URL}/{kind}", "aud": "https://gateway.example", **times, **claims_of(made), **changes}

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        full = {"alg": self.key.algorithm, "kid": self.key.kid, **header}
        return compact(json.dumps(full).encode(), payload, self.key)


@pytest.fixture(scope="module", params=["RS256", "ES256"])
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    made = Gate(tmp_path_factory.mktemp("gate"), request.param)
    yield made
    made.close()


@FUZZ
@given(authorization=st.text(max_size=60) | st.binary(max_size=60))
@example(authorization="Bearer " + "." * 8000)
@example(authorization="Bearer " + "a" * 10_000_000)
@example(authorization=" " * 100_000)
def test_any_metadata_is_refused(gate: Gate, authorization: str | bytes) -> None:
    assert isinstance(gate.ask(authorization), str)


@FUZZ
@given(parts=st.lists(st.binary(max_size=60) | st.just(b'{"alg":"RS256"}'), min_size=1, max_size=5))
def test_any_bytes_as_parts_are_refused(gate: Gate, parts: list[bytes]) -> None:
    assert isinstance(gate.ask("Bearer " + ".".join(map(encoded, parts))), str)


@FUZZ
@given(header=JSON, payload=JSON)
def test_any_json_is_refused(gate: Gate, header: Any, payload: Any) -> None:
    token = compact(json.dumps(header).encode(), json.dumps(payload).encode(), gate.key)
    assert isinstance(gate.ask(f"Bearer {token}"), str)


@FUZZ
@given(kind=st.sampled_from(KINDS), header=st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=3))
def test_any_header_over_good_claims_gives_the_right_principal_or_a_refusal(
    gate: Gate, kind: str, header: dict[str, Any]
) -> None:
    answer = gate.ask(f"Bearer {gate.sign(header, json.dumps(gate.claims(kind, {})).encode())}")
    if isinstance(answer, Principal):
        assert not {"crit", "b64"} & header.keys()
        assert answer.subject == f"{URL}/{kind}#{claims_of('person' if kind == 'generic' else kind)['sub']}"


@FUZZ
@given(kind=st.sampled_from(KINDS), changes=st.dictionaries(st.sampled_from(CLAIMS), JSON, max_size=4))
@example(kind="kubernetes", changes={"kubernetes.io": {"namespace": 10**400}})
@example(kind="github", changes={"run_id": 10**4000})
@example(kind="github", changes={"exp": 1e308})
def test_any_claims_that_the_issuer_signs_give_the_right_principal_or_a_refusal(
    gate: Gate, kind: str, changes: dict[str, Any]
) -> None:
    claims = gate.claims(kind, changes)
    answer = gate.ask(f"Bearer {gate.sign({}, _lenient(claims))}")
    if isinstance(answer, Principal):
        assert (answer.tenant, answer.subject) == ("acme", f"{claims['iss']}#{claims['sub']}")
        assert answer.person == claims["sub"]
        assert answer.not_after == datetime.fromtimestamp(claims["exp"], UTC)
        assert all(isinstance(value, str) and 0 < len(value) <= 256 for _, value in answer.attributes)
        assert list(answer.attributes) == sorted(answer.attributes)
        assert gate.ask(f"Bearer {gate.sign({}, _lenient(claims))}") in (answer, "TOKEN_REPLAYED")


def _lenient(claims: dict[str, Any]) -> bytes:
    text = json.dumps({name: 0 if _is_huge(value) else value for name, value in claims.items()})
    for name, value in claims.items():
        if _is_huge(value):
            text = text.replace(f"{json.dumps(name)}: 0", f"{json.dumps(name)}: 1{'0' * 5000}")
    return text.encode()


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > 10**1000


@FUZZ
@given(data=st.data())
def test_no_changed_token_is_accepted(gate: Gate, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    token = gate.sign({"typ": "JWT"}, json.dumps(gate.claims(kind, {})).encode())
    if data.draw(st.booleans()):
        assert isinstance(gate.ask(f"Bearer {token}"), Principal)
    changed = data.draw(_changes(token))
    answer = gate.ask(f"Bearer {changed}")
    assert (changed == token) == isinstance(answer, Principal)


def _changes(token: str) -> st.SearchStrategy[str]:
    place = st.integers(0, len(token) - 1)
    letters = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=")
    header, payload, signature = token.split(".")
    return st.one_of(
        st.builds(lambda at, letter: token[:at] + letter + token[at + 1 :], place, letters),
        st.builds(lambda at, letter: token[:at] + letter + token[at:], place, letters),
        st.builds(lambda at: token[:at] + token[at + 1 :], place),
        st.builds(lambda at: token[:at], place),
        # The bits of the last letter that stand for nothing.
        st.builds(lambda letter: token[:-1] + letter, letters),
        st.sampled_from(
            [
                f"{header}.{payload}.{payload}",
                f"{payload}.{header}.{signature}",
                f"{header}.{payload}.",
                f"{header}..{signature}",
                f"{header}=.{payload}.{signature}",
                f"{token}=",
                f"{token}.",
                f"{token}.{signature}",
                token,
            ]
        ),
    )
