"""What a proposal does and what it breaks, in plain words: sentences for each action, from what is signed alone.

An action, or a parameter, that is not known here is shown as JSON, with a warning: nobody signs what was not shown.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from sealkeeper.client.cli.output import printable
from sealkeeper.client.cli.resources import time_text

if TYPE_CHECKING:
    from sealkeeper.v1 import approval_pb2, gate_pb2, policy_pb2
    from sealkeeper.verify.approval import Content
    from sealkeeper.verify.strict_json import Value

_WARNING = "WARNING: "
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_RATES = {
    "tenant_calls": "calls of all callers together",
    "tenant_signatures": "signatures for all callers together",
    "principal_calls": "calls of each caller",
    "principal_signatures": "signatures for each caller",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the gateway says beside the content, which nobody signs.

    Attributes:
        impact: on those who rely on a key version; ``None`` where the action is not on one.
        policy: in force; ``None`` unless the proposal is of another one.
        gate: likewise, the policy of the gate that another one is proposed of.
    """

    impact: approval_pb2.Impact | None = None
    policy: policy_pb2.PolicyVersion | None = None
    gate: gate_pb2.GateVersion | None = None


_Members: TypeAlias = Mapping[str, "Value"]
_Effect: TypeAlias = Callable[["Content", _Members, Known], Iterator[str]]


def effects(content: Content, known: Known) -> list[str]:
    """Lines that say what happens when the proposal is done."""
    from sealkeeper.verify.strict_json import JsonError, Value

    names, effect = _EFFECTS.get(content.action, (frozenset(), None))
    if effect is None:
        return _unknown(content, "this client does not know the action and cannot say what it does")
    try:
        return list(effect(content, Value(dict(content.parameters), "$.parameters").members(names), known))
    except (JsonError, OverflowError) as error:
        return _unknown(content, f"this client does not understand the proposal and cannot say what it does: {error}")


def _unknown(content: Content, problem: str) -> list[str]:
    document = json.dumps(dict(content.parameters), indent=2, sort_keys=True, ensure_ascii=False)
    lines = [f"  {printable(line)}" for line in document.split("\n")]
    return [f"{_WARNING}{printable(problem)}", f"{printable(content.action)} with", *lines]


def _destroy(content: Content, members: _Members, known: Known) -> Iterator[str]:
    delay, version = _optional_seconds(members["destroyDelaySeconds"]), printable(content.resource)
    when = "after the gateway's shortest delay" if delay is None else f"{_period(delay)} after it is approved"
    yield f"The private key of {version} is destroyed {when}."
    yield "From the approval on it signs nothing. Until it is destroyed this can be called off:"
    yield f"  sealkeeper keys set-state {version} DISABLED"
    yield "Then it is gone for good: nobody can bring it back, and it never signs again."
    yield "What it has signed goes on verifying, unless it was DISABLED or COMPROMISED before."
    yield from _only_if_unchanged(members["etag"])
    yield from _use(known)


def _compromise(content: Content, members: _Members, known: Known) -> Iterator[str]:
    moment = None if members["compromiseTime"].json is None else members["compromiseTime"].time()
    version = printable(content.resource)
    since = "all that it has ever signed" if moment is None else f"all that it has signed from {_moment(moment)} on"
    yield f"{version} becomes COMPROMISED: {since} is refused"
    yield "by everybody who verifies with a trust root fetched after that. It signs nothing any more."
    yield "This cannot be undone: the time can only become earlier."
    yield from _only_if_unchanged(members["etag"])
    yield from _use(known, moment or datetime.min.replace(tzinfo=UTC))


def _import(content: Content, members: _Members, known: Known) -> Iterator[str]:
    period = _optional_seconds(members["publishPeriodSeconds"])
    after = "after the gateway's usual time of announcement" if period is None else f"{_period(period)} after that"
    standing_by = members["standby"].boolean()
    kind = "a standby version" if standing_by else "a version"
    yield f"A private key that was made outside becomes {kind} of {_text(members['key'])};"
    yield "it signs in the place of another that cannot." if standing_by else f"it signs {after}."
    yield f"  algorithm       {_text(members['algorithm'])}"
    yield f"  kept by         {_text(members['provider'])}"
    for name, one in _labels(members["labels"]).items():
        yield f"  label           {printable(name)}={_text(one)}, if the key is new"
    yield f"  import          {_text(members['keyImport'])}"
    yield f"  wrapped by      {_text(members['wrapMethod'])}"
    yield f"  wrapped key     {_text(members['wrappedKeyDigest'])}"
    yield f"  public key      {_text(members['publicKeyFingerprint'])}"
    yield "Compare the public key with what those say who made the key, by telephone or in person."
    yield "Whoever else has the private key, or had it, can sign as this key too."
    yield "Its proposer finishes the import when it is approved, with the same wrapped key."


def _policy(content: Content, members: _Members, known: Known) -> Iterator[str]:
    base, text = members["base"].integer(), members["text"].text(256 * 1024)
    yield f"Another policy decides who may do what in {printable(content.resource)}."
    yield from _difference(base, text, known.policy)


def _difference(base: int, text: str, now: policy_pb2.PolicyVersion | gate_pb2.GateVersion | None) -> Iterator[str]:
    """What changes in a policy; all of it where the one in force is not known."""
    # At line feeds alone, as Cedar ends its comments: what breaks lines elsewhere would show other text than holds.
    lines = text.split("\n")
    if now is None:
        yield "This is the whole of it:"
        yield from (f"  {printable(line)}" for line in lines)
        return
    if now.number != base:
        yield f"{_WARNING}it was made from version {base}, and {now.number} is in force: it will be refused"
    before = f"version {now.number}, in force"
    difference = list(difflib.unified_diff(now.text.split("\n"), lines, before, "proposed", lineterm=""))
    if not difference:
        yield f"The text is the one that is in force, version {now.number}."
        return
    yield from (f"  {printable(line)}" for line in difference)
    yield f"What is not shown is as in version {now.number}, as the gateway gives it. The whole text: --json"


def _gate(content: Content, members: _Members, known: Known) -> Iterator[str]:
    base, text, gate = members["base"].integer(), members["text"].text(256 * 1024), printable(content.resource)
    if base == 0:
        yield f"There is a new gate, {gate}. It decides by this policy which artifacts may run:"
        yield from (f"  {printable(line)}" for line in text.split("\n"))
    else:
        yield f"Another policy decides at {gate} which artifacts may run."
        yield from _difference(base, text, known.gate)
    yield "Whom it names as signers and builders is believed; its verdict_key signs what it decides."


def _exception(content: Content, members: _Members, known: Known) -> Iterator[str]:
    digest, pattern, environment = (_text(members[name]) for name in ("digest", "pattern", "environment"))
    period, gate = _period(members["lifetimeSeconds"].integer()), printable(content.resource)
    yield f"For {period} from the approval on, {gate} lets run"
    if digest:
        yield f"  the artifact with the digest {digest}"
    if pattern:
        yield f"  EVERY artifact whose name fits {pattern}: whoever deploys says what an artifact is called"
    yield f"in {environment or 'ALL environments'}, although its policy refuses it, whatever the reason."
    yield "It is no verified artifact for that: its verdict stays FAILED. It can be ended before:"
    yield "  sealkeeper gate exceptions revoke"


def _quota(content: Content, members: _Members, known: Known) -> Iterator[str]:
    limits = members["limits"].members(set(), {*_RATES, "keys"})
    before = members["before"].members(set(limits))
    yield f"Limits of {printable(content.resource)} are set:"
    for name, one in limits.items():
        yield f"  {_RATES.get(name, 'keys')}: {_limit(name, one)}; when it was proposed, {_limit(name, before[name])}"
    yield "Whoever is let in can then ask that much of the gateway and its key stores."


def _limit(name: str, limit: Value) -> str:
    if name == "keys":
        return f"at most {limit.integer()}"
    rate = limit.members({"per_second", "burst"})
    return f"{_text(rate['per_second'])} a second, {rate['burst'].integer()} at once"


def _break_glass(content: Content, members: _Members, known: Known) -> Iterator[str]:
    yield f"EMERGENCY: for {_period(members['lifetimeSeconds'].integer())} from the approval on,"
    yield f"  {_text(members['subject'])}"
    yield f"may do {_actions(members['actions'])}"
    yield f"with {printable(content.resource)}, though its role may not."
    yield "Everything that it does then is on record. It can be ended before: sealkeeper grants revoke"


def _grant(content: Content, members: _Members, known: Known) -> Iterator[str]:
    yield f"For {_period(members['lifetimeSeconds'].integer())} from the approval on,"
    yield f"  {_text(members['subject'])}"
    yield f"may do {_actions(members['actions'])}"
    yield f"with {printable(content.resource)}. It can be ended before: sealkeeper grants revoke"


_EFFECTS: Mapping[str, tuple[frozenset[str], _Effect]] = {
    "DestroyKeyVersion": (frozenset({"destroyDelaySeconds", "etag"}), _destroy),
    "CompromiseKeyVersion": (frozenset({"compromiseTime", "etag"}), _compromise),
    "ImportKey": (
        frozenset({"keyImport", "key", "algorithm", "provider", "standby", "labels", "wrapMethod"})
        | {"wrappedKeyDigest", "publicKeyFingerprint", "publishPeriodSeconds"},
        _import,
    ),
    "UpdatePolicy": (frozenset({"base", "text"}), _policy),
    "UpdateGate": (frozenset({"base", "text"}), _gate),
    "CreateGateException": (frozenset({"digest", "pattern", "environment", "lifetimeSeconds"}), _exception),
    "RaiseQuota": (frozenset({"limits", "before"}), _quota),
    "BreakGlass": (frozenset({"actions", "lifetimeSeconds", "subject"}), _break_glass),
    "CreateGrant": (frozenset({"subject", "actions", "lifetimeSeconds"}), _grant),
}


def _use(known: Known, refused_from: datetime | None = None) -> Iterator[str]:
    """What is known of the use of a key version.

    Args:
        known: from the gateway.
        refused_from: signatures of then and later will be refused; ``None`` where none will.
    """
    impact = known.impact
    if impact is None:
        return
    yield "What the gateway knows of its use:"
    if not impact.signatures:
        yield "  it has signed nothing"
        return
    last = f", the last one at {time_text(impact.last_use_time)}" if impact.HasField("last_use_time") else ""
    yield f"  {impact.signatures} signature{'s' if impact.signatures != 1 else ''}{last}"
    if refused_from is not None:
        hit = impact.HasField("last_use_time") and impact.last_use_time.ToDatetime(UTC) >= refused_from
        yield "  some or all of them WILL BE REFUSED" if hit else "  none of them will be refused"
    if impact.production_signatures:
        yield f"  {impact.production_signatures} of them for PRODUCTION"
    for title, artifacts in (("in production", impact.production_artifacts), ("newest", impact.recent_artifacts)):
        for one in artifacts:
            yield f"    {title}: {_artifact(one, refused_from)}"


def _artifact(one: approval_pb2.SignedArtifact, refused_from: datetime | None) -> str:
    name = printable(one.name) or "(without a name)"
    refused = refused_from is not None and one.sign_time.ToDatetime(UTC) >= refused_from
    mark = ", WILL BE REFUSED" if refused else ""
    return f"{name} {printable(one.digest)}, {time_text(one.sign_time)}, by {printable(one.subject)}{mark}"


def _only_if_unchanged(etag: Value) -> Iterator[str]:
    text = etag.text(64)
    if text:
        yield f"It is done only if the key has not changed since (etag {printable(text)})."


def _labels(value: Value) -> dict[str, Value]:
    # Whatever names they have.
    return value.members(frozenset(), frozenset(value.json if isinstance(value.json, dict) else ()))


def _actions(value: Value) -> str:
    return ", ".join(_text(one) for one in value.items(64, 1))


def _text(value: Value) -> str:
    return printable(value.text())


def _optional_seconds(value: Value) -> int | None:
    return None if value.json is None else value.integer()


def _period(seconds: int) -> str:
    """``7 days``, ``1 hour 30 minutes``."""
    parts, left = [], seconds
    for size, name in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(parts) or "0 seconds"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
