"""A live gateway that takes tokens of real issuers, and callers with such tokens."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.client import Client, Connection
from sealkeeper.client.connection import OPTIONS
from sealkeeper.client.token_source import FixedToken
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import key_pb2, resources_pb2
from sealkeeper.verify.log import TILE, tile_path
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, TENANT, Running
from tests.e2e.test_tenants import OTHER, P256, Outcome, ask
from tests.oidc_issuer import Issuer, oidc_issuer

AUDIENCE = f"https://{DOMAIN}"
REPOSITORY, OTHER_REPOSITORY = "acme-org/app", "beta-org/app"
REPOSITORIES = {TENANT: REPOSITORY, OTHER: OTHER_REPOSITORY}
FIRST = "248289761001"
"""Subject of the person who is ``[people.first]``."""
# gRPC shares connections between channels that are alike; a token stays with its connection.
OWN_CONNECTION = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
_numbers = count()


@dataclass
class TokenGateway:
    """A gateway, its issuers and callers.

    Attributes:
        gateway: with two tenants and the policy that tenants begin with.
        jobs: issuer of CI jobs, of the kind of GitHub's: tokens stay with their connection.
        people: issuer of people, and of robots that have their role by their subject.
        lasting: issuer of robots whose keys are good for ten seconds, and used for long when it is away.
        brief: the same, whose keys are not used when it is away.
        approval_key: of the first person.
    """

    gateway: Running
    jobs: Issuer
    people: Issuer
    lasting: Issuer
    brief: Issuer
    approval_key: Path
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        return self.gateway.directory / "tls" / "ca.pem"

    def channel(self, port: str = "tokens") -> grpc.Channel:
        """A connection of its own, without a certificate."""
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(self.gateway.addresses[port], credentials, OWN_CONNECTION)

    def with_token(self, token: str) -> grpc.Channel:
        """A connection of its own, whose calls all come with the token."""
        if token not in self._channels:
            tls = grpc.ssl_channel_credentials(self.ca.read_bytes())
            both = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(token))
            made = grpc.secure_channel(self.gateway.addresses["tokens"], both, OWN_CONNECTION)
            self._channels[token] = made
        return self._channels[token]

    def client(self, token: str) -> Client:
        """A client as people and jobs have it."""
        return Client(self.connection(token), retry=NO_RETRY)

    def connection(self, token: str) -> Connection:
        return Connection(
            self.gateway.addresses["tokens"], TENANT, self.ca, tokens=FixedToken(token, "the test's token", "none")
        )

    def job(self, tenant: str = TENANT, **claims: Any) -> str:
        """A token of a CI job of the tenant's repository."""
        owner, _, _ = REPOSITORIES[tenant].partition("/")
        return self.jobs.token(
            "github", AUDIENCE, repository=REPOSITORIES[tenant], **{"repository_owner": owner, **claims}
        )

    def person(self, role: str, tenant: str = TENANT, **claims: Any) -> str:
        """A token of a person, or of a robot that verifies."""
        named = {"sub": f"{tenant} {role}", "groups": [f"{tenant} {role}"], "email": f"{role}@{tenant}.example"}
        return self.people.token("person", AUDIENCE, **{**named, **claims})

    def ask(self, tenant: str, role: str, request: Any) -> Outcome:
        """Call as a role of a tenant, over one connection with one token for each."""
        if (caller := f"{tenant} {role}") not in self._channels:
            token = self.job(tenant) if role == "ci" else self.person(role, tenant)
            self._channels[caller] = self.with_token(token)
        return ask(self._channels[caller], request)

    def new_key(self, tenant: str, repository: str | None = None) -> str:
        """A key of a repository."""
        labels = {"repository": REPOSITORIES[tenant] if repository is None else repository}
        request = key_pb2.CreateKeyRequest(
            parent=f"tenants/{tenant}",
            key_id=f"key-{next(_numbers):04}",
            key=resources_pb2.Key(algorithm=P256, labels={name: value for name, value in labels.items() if value}),
        )
        [response] = self.ask(tenant, "custodian", request).responses
        return str(response.key.name)

    def records(self, start: int) -> list[dict[str, Any]]:
        """Audit records from an index on, those of nobody's tenant too, which are on the operator's disk alone."""
        size, found = self.gateway.tree_size("audit"), list[bytes]()
        # Files follow the log within a moment.
        while len(found) < size - start:
            found = self._published(start)
        return [json.loads(one) for one in found]

    def _published(self, start: int) -> list[bytes]:
        found, tile = list[bytes](), start // TILE
        while path := self._entries(tile):
            try:
                found += _split(path.read_bytes())
            except FileNotFoundError:
                # There is a fuller one by now.
                continue
            tile += 1
        return found[start % TILE :]

    def _entries(self, tile: int) -> Path | None:
        """The file of so many-th entries of the audit log, the fullest there is (C2SP tlog-tiles)."""
        full = self.gateway.logs / "audit" / tile_path("entries", tile)
        partial = full.with_name(f"{full.name}.p")
        if full.exists():
            return full
        return max(partial.glob("[0-9]*"), key=lambda one: int(one.name), default=None)

    def failures(self, reason: str) -> int:
        """How many callers did not prove who they are, for this reason, as the metrics have it."""
        connection = http.client.HTTPConnection(self.gateway.addresses["metrics"], timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pattern = rf'^sealkeeper_authentication_failures_total{{[^}}]*reason="{reason}"[^}}]*}} ([0-9.e+]+)$'
        return sum(int(float(one)) for one in re.findall(pattern, text, re.MULTILINE))

    def close(self) -> None:
        for one in self._channels.values():
            one.close()


def _split(data: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        found.append(data[place + 2 : end])
        place = end
    return found


@contextmanager
def token_gateway(directory: Path) -> Iterator[TokenGateway]:
    """A live one."""
    with ExitStack() as stack:
        jobs, people, lasting, brief = (stack.enter_context(oidc_issuer()) for _ in range(4))
        lasting.max_age = brief.max_age = 10
        key = ec.generate_private_key(ec.SECP256R1())
        gateway = Running.make(directory / "gateway", policy=default_policy())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (gateway.directory / "first.pem").write_bytes(public)
        approval_key = directory / "first.key"
        write_private_key(approval_key, key)
        gateway.change_settings(lambda text: _with_tokens(text, directory, [jobs, people, lasting, brief]))
        stack.enter_context(gateway.running())
        made = TokenGateway(gateway, jobs, people, lasting, brief, approval_key)
        stack.callback(made.close)
        yield made


def write_private_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """For its owner alone."""
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _with_tokens(text: str, directory: Path, issuers: Sequence[Issuer]) -> str:
    jobs, people, lasting, brief = (one.url for one in issuers)
    # The second provider that tests/e2e/test_tenants.py asks for.
    (directory / "seal").write_text("5a" * 32)
    (directory / "seal").chmod(0o600)
    second = f"software://{directory}/keys?sealing-key-source=file:{directory}/seal"
    (directory / "denied").touch()
    robots = '{ claims = { sub = "*" }, tenant = "acme", role = "ci" }'
    roles = ", ".join(
        f'{{ claims = {{ groups = "{tenant} {role}" }}, tenant = "{tenant}", role = "{role}"{person} }}'
        for tenant in (TENANT, OTHER)
        for role, person in (
            *((one, ', person = "{email}"') for one in ("admin", "custodian")),
            ("verifier", ""),
        )
    )
    owners = ", ".join(
        f'{{ claims = {{ repository_owner = "{name.partition("/")[0]}" }}, tenant = "{tenant}", role = "ci" }}'
        for tenant, name in REPOSITORIES.items()
    )
    text = text.replace(f'tenants = ["{TENANT}"]', f'tenants = ["{TENANT}", "{OTHER}"]')
    text = text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1)
    return f"""{text}
[providers.second]
uri = "{second}"

[identity]
deny_list = "{directory}/denied"
reload_interval = 1

[issuers.jobs]
issuer = "{jobs}"
kind = "github"
principals = [{owners}]

[issuers.people]
issuer = "{people}"
audiences = ["{AUDIENCE}", "sealkeeper"]
principals = [{roles}]

[issuers.lasting]
issuer = "{lasting}"
replay = "none"
principals = [{robots}]

[issuers.brief]
issuer = "{brief}"
replay = "none"
stale = 0
principals = [{robots}]

[people.first]
identities = ["spiffe://{DOMAIN}/tenants/{TENANT}/roles/custodian/first", "{people}#{FIRST}"]
approval_keys = ["first.pem"]
"""
