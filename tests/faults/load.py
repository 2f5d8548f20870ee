"""Callers that sign all the time while something is broken, and what must hold of all that came of it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Condition, Event
from typing import Any

from sealkeeper.client import Client, Connection, message_content
from sealkeeper.client.errors import ClientError, UnavailableError
from sealkeeper.v1 import signing_pb2
from sealkeeper.verify import Artifact, Policy, TrustRoot, verify
from sealkeeper.verify.log import DirectorySource, trusted_verifier, verify_log
from sealkeeper.verify.note import NoteVerifier
from tests.e2e.running import NO_RETRY, TENANT, Running

BATCH = 7
STANDBY = 2
"""Number of the version that stands by, where one does."""
# Far beyond what any wait takes, on a machine that does much else.
PATIENCE = 100.0
# Between a refusal and the next call, so that refusals do not outnumber all else.
_BREATH = 0.02


@dataclass(frozen=True)
class Called:
    """A call to sign that has ended.

    Attributes:
        number: calls that were begun earlier have lower ones.
        request_id: of it.
        key: that was asked for.
        messages: one, or those of a batch.
        version: that signed, the number of it; 0 where none did.
        signatures: one a message; none where it was refused.
        refusal: what the caller was told otherwise.
    """

    number: int
    request_id: str
    key: str
    messages: Sequence[bytes]
    version: int = 0
    signatures: Sequence[signing_pb2.Signature] = ()
    refusal: ClientError | None = None

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return self.key.split("/")[1]

    @property
    def reason(self) -> str:
        """Of the refusal; empty where there is none."""
        return self.refusal.reason if self.refusal is not None else ""


class Load:
    """Threads that sign, each one call after the other; none is tried again.

    Attributes:
        calls: all that have ended, in the order of their ends.
        failovers: after the end, why versions signed in the place of others, as the audit log has it: the provider that
            was passed over, and the reason.
    """

    def __init__(self, gateway: Running) -> None:
        self.calls: list[Called] = []
        self.failovers: set[tuple[str, str]] = set()
        self._gateway = gateway
        self._changed = Condition()
        self._ended = Event()
        self._numbers = count()
        self._threads = ThreadPoolExecutor(64)
        self._working: list[Future[None]] = []

    def add(
        self,
        key: str,
        threads: int = 4,
        batch: int = BATCH,
        every: int = 4,
        role: str = "ci",
        connect: Callable[[], Connection] | None = None,
        pause: float = 0,
    ) -> None:
        """Have more callers sign with a key until the end: every so many-th with batches, the others one at a time.

        Args:
            key: that they sign with.
            threads: one each.
            batch: messages of a batch.
            every: so many-th makes batches.
            role: of their certificate.
            connect: gives each its connection instead.
            pause: seconds of each between its calls, where that many signatures would take too long to verify.
        """
        connect = connect or partial(self._gateway.connection, role, key.split("/")[1])
        for place in range(threads):
            size = batch if place % every == every - 1 else 1
            self._working.append(self._threads.submit(self._work, key, size, connect, pause))

    def until(self, holds: Callable[[Called], bool], enough: int = 1) -> None:
        """Wait until so many calls have come out like this that were begun after now."""
        begun = next(self._numbers)

        def found() -> bool:
            return any(one.done() for one in self._working) or (
                sum(one.number > begun and holds(one) for one in self.calls) >= enough
            )

        with self._changed:
            in_time = self._changed.wait_for(found, PATIENCE)
        self._raise_early_ends()
        assert in_time, Counter(f"{one.key} {one.version} {one.reason}" for one in self.calls if one.number > begun)

    def end(self) -> None:
        """Let every caller end its call."""
        self._ended.set()
        self._threads.shutdown()
        for one in self._working:
            one.result()

    def _raise_early_ends(self) -> None:
        for one in self._working:
            if one.done():
                one.result()

    def _work(self, key: str, size: int, connect: Callable[[], Connection], pause: float) -> None:
        try:
            with Client(connect(), retry=NO_RETRY, timeout=PATIENCE) as client:
                while not self._ended.is_set():
                    called = self._call(client, key, size)
                    with self._changed:
                        self.calls.append(called)
                        self._changed.notify_all()
                    if called.refusal is not None or pause:
                        self._ended.wait(pause or _BREATH)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _call(self, client: Client, key: str, size: int) -> Called:
        number = next(self._numbers)
        request_id, messages = f"load-{number}", [b"%d %d" % (number, place) for place in range(size)]
        contents = [message_content(one) for one in messages]
        try:
            if size > 1:
                batch = client.sign_batch(key, contents, request_id=request_id)
                version, signatures = batch.key_version, list(batch.signatures)
            else:
                single = client.sign(key, *contents, request_id=request_id)
                version, signatures = single.key_version, [single.signature]
        except ClientError as error:
            return Called(number, request_id, key, messages, refusal=error)
        return Called(number, request_id, key, messages, int(version.rpartition("/")[2]), signatures)


@contextmanager
def under_load(gateway: Running, *, every: int = 1) -> Iterator[Load]:
    """Callers, who end with the block. Then all that must hold of what they were told is looked into.

    Args:
        gateway: that they call; it is ended at the end.
        every: so many-th signature of a batch is verified; where it is a flood, all of them would take minutes.
    """
    load = Load(gateway)
    try:
        yield load
    finally:
        load.end()
    load.failovers = require_all_in_order(gateway, load.calls, every)


def require_all_in_order(gateway: Running, calls: Sequence[Called], every: int = 1) -> set[tuple[str, str]]:
    """No wrong signature, no lost record, and no refusal without a reason and a time to come back; ends the gateway.

    * Every bundle verifies, with the trust root and nothing else, for the version that is said to have signed, and its
      entry is in the transparency log where it says.
    * Every refusal is UNAVAILABLE, with a reason and a time to come back.
    * The audit log has for every call one record of what its caller was told; where another version signed in the place
      of the ACTIVE one, and nowhere else, it says so; and its records account for every entry of the transparency log.
    * Both logs are one history.

    Returns ``Load.failovers``.
    """
    trusts, records = dict[str, TrustRoot](), list[Mapping[str, Any]]()
    for tenant, admin in _admins(gateway):
        found = admin.trust_root(f"tenants/{tenant}")
        trusts[tenant] = TrustRoot.from_json(found.trusted_root, found.keys)
        records += [json.loads(one.body) for one in admin.entries("logs/audit") if one.body]
        bodies = [one.body for one in admin.entries("logs/transparency")]
    for called in calls:
        told = list(zip(called.messages, called.signatures, strict=bool(called.version)))
        for message, signature in told[::every]:
            policy = Policy(key=f"{called.key}/versions/{called.version}")
            result = verify(signature.bundle, Artifact.from_bytes(message), trusts[called.tenant], policy).require()
            assert result.log_index == signature.log_index
            [entry] = json.loads(signature.bundle)["verificationMaterial"]["tlogEntries"]
            assert bodies[signature.log_index] == b64decode(entry["canonicalizedBody"])
        if called.refusal is not None:
            assert type(called.refusal) is UnavailableError, repr(called.refusal)
            assert called.refusal.retry_after, called.reason
            assert called.refusal.next_step, called.reason
    failovers = _require_recorded(calls, records, len(bodies))
    assert gateway.stop() == 0
    audit = NoteVerifier.from_vkey((gateway.directory / "audit.vkey").read_text())
    for name in ("transparency", "audit"):
        source = DirectorySource(gateway.logs / name)
        report = verify_log(source, audit if name == "audit" else trusted_verifier(source, trusts[TENANT]))
        assert name == "audit" or report.checkpoint.size == len(bodies)
    return failovers


def _admins(gateway: Running) -> Iterator[tuple[str, Client]]:
    """An admin of each tenant that has one in the gateway's folder."""
    for folder in sorted((gateway.directory / "clients").glob("*admin")):
        tenant = folder.name.rpartition("-")[0] or TENANT
        with Client(gateway.connection(folder.name, tenant), retry=NO_RETRY, timeout=PATIENCE) as admin:
            yield tenant, admin


def _require_recorded(
    calls: Sequence[Called], records: Sequence[Mapping[str, Any]], entries: int
) -> set[tuple[str, str]]:
    signing, failovers, of_request = [], set[tuple[str, str]](), defaultdict[str, list[Mapping[str, Any]]](list)
    for record in records:
        if record["method"] in ("SigningService/Sign", "SigningService/SignBatch"):
            signing.append(record)
            of_request[record["requestId"]].append(record)
    for called in calls:
        [record] = of_request[called.request_id]
        details = record["details"]
        if not called.version:
            assert (record["outcome"], details["asked"]["count"]) == (called.reason, len(called.messages))
            continue
        assert record["outcome"] == "OK"
        assert details["keyVersion"] == f"{called.key}/versions/{called.version}"
        assert [one.log_index for one in called.signatures] == [
            details["logIndex"] + place for place in range(details["count"])
        ]
        if called.version == STANDBY:
            failover = details["failover"]
            failovers.add((failover["provider"], failover["reason"]))
            assert failover["from"] == f"{called.key}/versions/1"
        else:
            assert "failover" not in details
    next_index = 0
    done = [one["details"] for one in signing if one["outcome"] == "OK"]
    for details in sorted(done, key=lambda one: int(one["logIndex"])):
        assert details["logIndex"] == next_index
        next_index += details["count"]
    assert next_index == entries
    return failovers
