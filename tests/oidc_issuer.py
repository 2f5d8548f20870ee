"""A real OIDC issuer on loopback: discovery, keys, tokens of every kind that the gateway knows, and logins of people.

::

    with oidc_issuer() as issuer:                       # http://127.0.0.1:PORT; https with certificate= and key=
        issuer.url                                      # its iss, for [issuers.NAME] issuer
        issuer.token("github", "https://gateway.example", ref="refs/heads/main")      # changes single claims
        issuer.token("kubernetes", AUDIENCE, lifetime=3600, environment=ABSENT)       # ABSENT leaves a claim out
        issuer.sign({"iss": issuer.url, ...}, header={"typ": "JWT"})                  # any claims, any header

**Kinds**: ``github``, ``gitlab``, ``buildkite``, ``circleci``, ``kubernetes`` (claims as those systems make them) and
``person`` (of an identity provider). ``claims_of(kind)`` gives them without issuer, audience and times.

**Keys**: ``issuer.rotate("RS256" | "ES256" | "EdDSA" | …)`` signs with a new key from now on and publishes it beside
the old ones; ``issuer.withdraw(kid)`` publishes one no more. ``issuer.keys`` has them, newest last;
``issuer.max_age`` is what ``Cache-Control`` says of them.

**Faults**: ``issuer.behave(AWAY)`` closes connections without an answer, ``BROKEN`` answers 500, ``SLOW`` does not
answer until ``behave`` is called again; ``WELL`` ends it. ``issuer.replies[path] = Reply(status, body, headers)``
answers one path so. ``issuer.seen`` lists method and path of each request; ``issuer.wait_until(lambda: …)`` waits for
something of it.

**Time**: ``issuer.now`` is a function that answers seconds since the epoch; tests may set it.

**Logins** (OAuth 2.0 device authorization grant, RFC 8628; found through discovery)::

    POST {url}/device_authorization  client_id, scope, audience            device_code, user_code, verification_uri, …
    POST {url}/token   grant_type=urn:ietf:params:oauth:grant-type:device_code, device_code, client_id
    POST {url}/token   grant_type=refresh_token, refresh_token, client_id  the refresh token changes with each use
    POST {url}/revoke  token, client_id                                    ends the login (RFC 7009)

``issuer.client_id`` is the one public client. Who polls gets ``authorization_pending`` until a test decides::

    user_code = issuer.next_login()                     # waits for a device authorization request
    issuer.approve(user_code, sub="248289761001", email="first@example.org", amr=["pwd", "hwk"])
    issuer.deny(user_code)                              # access_denied
    issuer.expire(user_code)                            # expired_token

``issuer.on_login = lambda user_code: issuer.approve(user_code)`` decides by itself. ``issuer.interval`` is the seconds
between polls that the answer asks for (0 at first, so that tests need not wait); the next ``issuer.slow_downs`` polls
are answered ``slow_down``. ``issuer.polls`` counts polls. The token response has ``id_token`` (its ``aud`` is
``audience`` where that was asked for, else the client), ``access_token`` (RFC 9068: ``typ`` ``at+jwt``; same audience),
``refresh_token`` (with scope ``offline_access``), ``token_type`` and ``expires_in``. A refresh token that is used twice
ends the login (``invalid_grant``, RFC 9700 section 4.14.2); so does ``issuer.end_logins()``. ``issuer.lifetime`` is
that of new tokens, in seconds.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

WELL, AWAY, BROKEN, SLOW = "well", "away", "broken", "slow"


class _Absent(Enum):
    """Of an enumeration, so that tests which are given it are called alike in every process."""

    ABSENT = "absent"


ABSENT = _Absent.ABSENT
"""Stands for a claim that is left out."""

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
SHA = "9f3182061f1e2cca4702c368cbc039b7dc9d4485"
Claims: TypeAlias = dict[str, Any]
PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_CURVES: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any], status: int = 200, **headers: str) -> Reply:
        """In JSON."""
        return cls(
            status, json.dumps(document).encode(), {name.replace("_", "-"): one for name, one in headers.items()}
        )


@dataclass(frozen=True)
class Key:
    """A signing key of the issuer.

    Attributes:
        kid: names it.
        algorithm: of its signatures.
        private: the key.
        public: its JWK, as published.
    """

    kid: str
    algorithm: str
    private: PrivateKey
    public: Mapping[str, Any]

    @classmethod
    def make(cls, algorithm: str = "RS256", *, size: int = 2048, **members: Any) -> Key:
        """A new one; ``members`` are added to its JWK."""
        private: PrivateKey
        if algorithm in _CURVES:
            private = ec.generate_private_key(_CURVES[algorithm])
        elif algorithm == "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = rsa.generate_private_key(65537, size)
        known = get_default_algorithms()[algorithm]
        kid = secrets.token_hex(8)
        public = {**known.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": algorithm}
        public.pop("key_ops", None)
        return cls(
            kid, algorithm, private, {name: one for name, one in (public | members).items() if one is not ABSENT}
        )


@dataclass
class Login:
    """A device authorization and what became of it."""

    device_code: str
    user_code: str
    scope: str
    audience: str
    state: str = "authorization_pending"
    claims: Claims = field(default_factory=dict)


def encoded(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: bytes, payload: bytes, key: Key | None, algorithm: str = "") -> str:
    """A JWS of any bytes; without a key its signature is empty."""
    signed = f"{encoded(header)}.{encoded(payload)}"
    if key is None:
        return f"{signed}."
    signer = get_default_algorithms()[algorithm or key.algorithm]
    return f"{signed}.{encoded(signer.sign(signed.encode(), key.private))}"


def github_claims() -> Claims:
    """Of GitHub Actions: docs.github.com, "OpenID Connect reference"."""
    workflow = "acme-org/app/.github/workflows/release.yml@refs/heads/main"
    return {
        "jti": str(uuid.uuid4()),
        "sub": "repo:acme-org/app:ref:refs/heads/main",
        "ref": "refs/heads/main",
        "sha": SHA,
        "repository": "acme-org/app",
        "repository_owner": "acme-org",
        "repository_owner_id": "2020",
        "run_id": "22259804324",
        "run_number": "42",
        "run_attempt": "1",
        "repository_visibility": "private",
        "repository_id": "424242",
        "actor_id": "1001",
        "actor": "first",
        "workflow": "release",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "workflow_ref": workflow,
        "workflow_sha": SHA,
        "job_workflow_ref": workflow,
        "job_workflow_sha": SHA,
        "runner_environment": "github-hosted",
    }


def gitlab_claims() -> Claims:
    """Of GitLab CI/CD: docs.gitlab.com/ci/secrets/id_token_authentication, "Token payload"."""
    return {
        "namespace_id": "72",
        "namespace_path": "acme-group",
        "project_id": "20",
        "project_path": "acme-group/app",
        "user_id": "1",
        "user_login": "first",
        "user_email": "first@example.org",
        "user_access_level": "developer",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "groups_direct": ["acme-group"],
        "environment": "production",
        "environment_protected": "false",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": SHA,
        "project_visibility": "private",
        "ci_config_ref_uri": "gitlab.example.org/acme-group/app//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": SHA,
        "jti": str(uuid.uuid4()),
        "sub": "project_path:acme-group/app:ref_type:branch:ref:main",
    }


def buildkite_claims() -> Claims:
    """Of Buildkite: buildkite.com/docs/agent/cli-oidc, "Claims". Its header has no ``typ``."""
    return {
        "jti": str(uuid.uuid4()),
        "sub": f"organization:acme-inc:pipeline:app:ref:refs/heads/main:commit:{SHA}:step:build",
        "organization_slug": "acme-inc",
        "pipeline_slug": "app",
        "build_number": 5,
        "build_branch": "main",
        "build_tag": None,
        "build_commit": SHA,
        "step_key": "build",
        "job_id": "01945ecf-80f0-41e8-9b83-a2970a9305a1",
        "agent_id": "01945ecf-8bcf-40a6-9d70-a765db9a0928",
        "build_source": "webhook",
        "runner_environment": "buildkite-hosted",
    }


def circleci_claims() -> Claims:
    """Of CircleCI: circleci.com/docs/openid-connect-tokens. They have no ``jti``."""
    prefix = "oidc.circleci.com/"
    organization, project = "c9035eb6-6eb2-4c85-8a81-d9ee6a1fa8c2", "ecc458d2-fbdc-4d9a-93c4-ac065ed3c3ca"
    return {
        "sub": f"org/{organization}/project/{project}/user/961ae4b1-070b-4134-ae64-1328a3ae3862",
        f"{prefix}org-id": organization,
        f"{prefix}project-id": project,
        f"{prefix}context-ids": ["58bef0c1-399d-49ca-a5ba-2f4317e4224d"],
        f"{prefix}vcs-origin": "github.com/acme-org/app",
        f"{prefix}vcs-ref": "refs/heads/main",
        f"{prefix}ssh-rerun": False,
        f"{prefix}job-id": "5f1c3b52-2f4c-4c0e-9a35-1b1d0b6a3a10",
        f"{prefix}workflow-id": "0b7c9d5e-94d6-4e0a-8a53-52d4a3b0c111",
        f"{prefix}pipeline-id": "b6f2a2a4-1a55-4b0c-8a0e-6f3c9f8d2222",
        f"{prefix}pipeline-definition-id": "b2f4f7c1-6a9e-4c4c-9b43-1d1f6a2f3333",
    }


def kubernetes_claims() -> Claims:
    """Of a projected service account token: kubernetes.io, "Managing Service Accounts", "Schema for service account
    private claims"."""
    return {
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {
            "namespace": "build",
            "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "app-0", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "signer", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
            "warnafter": 1729605240,
        },
        "sub": "system:serviceaccount:build:signer",
    }


def person_claims() -> Claims:
    """Of a person's ID token (OpenID Connect Core sections 2 and 5.1)."""
    return {
        "jti": str(uuid.uuid4()),
        "sub": "248289761001",
        "email": "first@example.org",
        "email_verified": True,
        "groups": ["custodians", "staff"],
        "acr": "urn:example:phishing-resistant",
        "amr": ["pwd", "hwk"],
    }


_KINDS: dict[str, Callable[[], Claims]] = {
    "github": github_claims,
    "gitlab": gitlab_claims,
    "buildkite": buildkite_claims,
    "circleci": circleci_claims,
    "kubernetes": kubernetes_claims,
    "person": person_claims,
}
# Seconds before the issue from which a token is valid; None for no nbf.
_NOT_BEFORE = {"github": 600, "gitlab": 5, "buildkite": 0, "circleci": None, "kubernetes": 0, "person": None}


def claims_of(kind: str) -> Claims:
    """Claims as a kind of issuer makes them, without issuer, audience and times."""
    return _KINDS[kind]()


class Issuer:
    """See the module."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = "sealkeeper"
        self.now: Callable[[], float] = time.time
        self.lifetime = 300
        self.max_age: int | None = None
        self.interval = 0
        self.slow_downs = 0
        self.polls = 0
        self.on_login: Callable[[str], None] = lambda _user_code: None
        self.keys: list[Key] = []
        self.published: list[Mapping[str, Any]] = []
        self.replies: dict[str, Reply] = {}
        self.seen: list[tuple[str, str]] = []
        self._behaviour = WELL
        self._changed = Condition()
        self._logins: dict[str, Login] = {}
        self._fresh: list[str] = []
        self._refresh: dict[str, Login] = {}
        self._used: dict[str, Login] = {}
        self.rotate()

    # Tokens and keys.

    def token(self, kind: str, audience: str | list[str], *, lifetime: float | None = None, **changes: Any) -> str:
        """A token as the kind of issuer makes it, with changes to single claims."""
        issued = int(self.now())
        times: Claims = {"iat": issued, "exp": issued + (self.lifetime if lifetime is None else lifetime)}
        if (before := _NOT_BEFORE[kind]) is not None:
            times["nbf"] = issued - before
        claims = {"iss": self.url, "aud": audience, **times, **claims_of(kind), **changes}
        return self.sign(
            {name: value for name, value in claims.items() if value is not ABSENT}, typ=kind != "buildkite"
        )

    def sign(
        self, claims: Claims, *, key: Key | None = None, header: Mapping[str, Any] | None = None, typ: bool = True
    ) -> str:
        """A token of any claims; ``header`` changes or adds to what its header has."""
        key = key or self.keys[-1]
        full = {"alg": key.algorithm, "kid": key.kid, **({"typ": "JWT"} if typ else {}), **(header or {})}
        full = {name: value for name, value in full.items() if value is not ABSENT}
        return compact(json.dumps(full).encode(), json.dumps(claims).encode(), key)

    def rotate(self, algorithm: str = "RS256", *, publish: bool = True, **members: Any) -> Key:
        """Sign with a new key from now on."""
        key = Key.make(algorithm, **members)
        self.keys.append(key)
        if publish:
            self.published.append(key.public)
        return key

    def withdraw(self, kid: str) -> None:
        """Publish a key no more."""
        self.published = [one for one in self.published if one.get("kid") != kid]

    # Faults.

    def behave(self, behaviour: str) -> None:
        """Be ``WELL``, ``AWAY``, ``BROKEN`` or ``SLOW`` from now on."""
        with self._changed:
            self._behaviour = behaviour
            self._changed.notify_all()

    def count(self, path: str) -> int:
        """How many requests there were for a path."""
        return sum(seen == path for _, seen in self.seen)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 20) -> None:
        """Wait until something holds; looked at after each request and decision."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout)

    # Logins.

    def next_login(self, timeout: float = 20) -> str:
        """The user code of the next device authorization, once it is asked for."""
        self.wait_until(lambda: bool(self._fresh), timeout)
        return self._fresh.pop(0)

    def approve(self, user_code: str, **claims: Any) -> None:
        """The person agrees; ``claims`` change those of ``person``."""
        self._logins[user_code].claims = {**person_claims(), **claims}
        self._decide(user_code, "approved")

    def deny(self, user_code: str) -> None:
        """The person refuses."""
        self._decide(user_code, "access_denied")

    def expire(self, user_code: str) -> None:
        """Nobody came in time."""
        self._decide(user_code, "expired_token")

    def end_logins(self) -> None:
        """No refresh token is good any more."""
        self._refresh.clear()

    def _decide(self, user_code: str, state: str) -> None:
        with self._changed:
            self._logins[user_code].state = state
            self._changed.notify_all()

    # Answers.

    def answer(self, method: str, path: str, form: Mapping[str, str]) -> Reply | None:
        """What to answer; ``None`` closes the connection."""
        with self._changed:
            self.seen.append((method, path))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._behaviour != SLOW, 60)
            if self._behaviour == AWAY:
                return None
            if self._behaviour == BROKEN:
                return Reply(500, b"something went wrong")
        if path in self.replies:
            return self.replies[path]
        answers: dict[tuple[str, str], Callable[[], Reply]] = {
            ("GET", DISCOVERY): lambda: Reply.of(self.discovery()),
            ("GET", JWKS): self._jwks,
            ("GET", "/device"): lambda: Reply(200, b"<p>Enter the code.</p>", {"Content-Type": "text/html"}),
            ("POST", "/device_authorization"): lambda: self._device_authorization(form),
            ("POST", "/token"): lambda: self._token(form),
            ("POST", "/revoke"): lambda: self._revoke(form),
        }
        answer = answers.get((method, path))
        return Reply(404) if answer is None else answer()

    def discovery(self) -> Claims:
        """OpenID Connect Discovery section 3, RFC 8628 section 4."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}{JWKS}",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device_authorization",
            "revocation_endpoint": f"{self.url}/revoke",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "grant_types_supported": [DEVICE_CODE, "refresh_token"],
            "token_endpoint_auth_methods_supported": ["none"],
        }

    def _jwks(self) -> Reply:
        headers = {} if self.max_age is None else {"Cache-Control": f"public, max-age={self.max_age}"}
        return Reply(200, json.dumps({"keys": self.published}).encode(), headers)

    def _device_authorization(self, form: Mapping[str, str]) -> Reply:
        if form.get("client_id") != self.client_id:
            return Reply.of({"error": "invalid_client"}, 401)
        letters = "BCDFGHJKLMNPQRSTVWXZ"
        code = "".join(secrets.choice(letters) for _ in range(8))
        user_code = f"{code[:4]}-{code[4:]}"
        login = Login(
            secrets.token_urlsafe(24), user_code, form.get("scope", ""), form.get("audience", "") or self.client_id
        )
        with self._changed:
            self._logins[user_code] = login
            self._fresh.append(user_code)
            self._changed.notify_all()
        self.on_login(user_code)
        return Reply.of(
            {
                "device_code": login.device_code,
                "user_code": user_code,
                "verification_uri": f"{self.url}/device",
                "verification_uri_complete": f"{self.url}/device?user_code={user_code}",
                "expires_in": 600,
                "interval": self.interval,
            }
        )

    def _token(self, form: Mapping[str, str]) -> Reply:
        if form.get("client_id") != self.client_id:
            return Reply.of({"error": "invalid_client"}, 401)
        if form.get("grant_type") == DEVICE_CODE:
            return self._poll(form.get("device_code", ""))
        if form.get("grant_type") == "refresh_token":
            return self._refreshed(form.get("refresh_token", ""))
        return Reply.of({"error": "unsupported_grant_type"}, 400)

    def _revoke(self, form: Mapping[str, str]) -> Reply:
        # RFC 7009 section 2.2: what is not known is revoked already.
        self._refresh.pop(form.get("token", ""), None)
        return Reply(200)

    def _poll(self, device_code: str) -> Reply:
        with self._changed:
            self.polls += 1
            self._changed.notify_all()
        login = next((one for one in self._logins.values() if one.device_code == device_code), None)
        if login is None:
            return Reply.of({"error": "invalid_grant"}, 400)
        if self.slow_downs:
            self.slow_downs -= 1
            return Reply.of({"error": "slow_down"}, 400)
        if login.state != "approved":
            return Reply.of({"error": login.state}, 400)
        del self._logins[login.user_code]
        return self._tokens(login)

    def _refreshed(self, refresh_token: str) -> Reply:
        login = self._refresh.pop(refresh_token, None)
        if login is None:
            stolen = self._used.get(refresh_token)
            self._refresh = {text: one for text, one in self._refresh.items() if one is not stolen}
            return Reply.of({"error": "invalid_grant"}, 400)
        self._used[refresh_token] = login
        return self._tokens(login)

    def _tokens(self, login: Login) -> Reply:
        issued = int(self.now())
        claims = {
            **login.claims,
            "iss": self.url,
            "aud": login.audience,
            "iat": issued,
            "exp": issued + self.lifetime,
            "auth_time": issued,
        }
        access = {name: claims[name] for name in ("iss", "aud", "sub", "iat", "exp")}
        access |= {"client_id": self.client_id, "scope": login.scope, "jti": str(uuid.uuid4())}
        document = {
            "id_token": self.sign({**claims, "jti": str(uuid.uuid4())}),
            "access_token": self.sign(access, header={"typ": "at+jwt"}),
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }
        if "offline_access" in login.scope.split():
            document["refresh_token"] = refresh = secrets.token_urlsafe(32)
            self._refresh[refresh] = login
        return Reply.of(document, Cache_Control="no-store")


def _handler(answer: Callable[[str, str, Mapping[str, str]], Reply | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def handle_any(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), 65_536))
            reply = answer(self.command, urlsplit(self.path).path, dict(parse_qsl(body.decode("ascii", "replace"))))
            if reply is None:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            with suppress(OSError):
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    return Handler


@contextmanager
def oidc_issuer(certificate: Path | None = None, key: Path | None = None) -> Iterator[Issuer]:
    """An issuer on loopback, in threads of its own.

    Args:
        certificate: PEM, for https; good for ``localhost``. ``None`` for plaintext at 127.0.0.1.
        key: PEM, its private key.
    """
    made: list[Issuer] = []
    handler = _handler(lambda method, path, form: made[0].answer(method, path, form))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        url = f"https://localhost:{server.server_port}"
    made.append(Issuer(url))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made[0]
    finally:
        made[0].behave(WELL)
        server.shutdown()
        server.server_close()
        thread.join(10)
