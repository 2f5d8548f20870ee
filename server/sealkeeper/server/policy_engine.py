"""The policy engine: Cedar policies of a tenant, checked, made ready once, and asked.

Cedar (https://docs.cedarpolicy.com) decides; this module says what a policy may look like, turns callers and resources
into Cedar's entities, and reads the answer. It knows no tenant's state: ``policy_authorizer.py`` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

import cedarpy

from sealkeeper.server.authorization import ALWAYS_APPROVED, PROPOSABLE, Action, Decision
from sealkeeper.server.clock import rfc3339
from sealkeeper.server.errors import FieldViolation, InvalidRequestError
from sealkeeper.server.identity import Principal
from sealkeeper.server.resources import (
    GateDecisionName,
    GateExceptionName,
    GateName,
    GateVersionName,
    GrantName,
    KeyImportName,
    KeyName,
    KeyVersionName,
    LogName,
    ProposalName,
    ProviderName,
    ResourceName,
)

MAX_TEXT = 256 * 1024
"""Bytes of a policy."""
MAX_POLICIES = 1000
MAX_APPROVALS = 10
MOST_ALIKE = 20
"""Grants that are asked where many permit the same."""
NOTHING = "no-policy"
"""Stands for the policy that decided where none did."""
FAULTY = "policy-error"
"""Stands for the policy that decided where one could not be evaluated."""
# Cedar's parser goes as deep as the text does, on a stack that ends, and what it does with names and "has" grows with
# their squares; so these are counted before it sees the text.
_MAX_TOKENS = 1000
_MAX_ALL_TOKENS = 40_000
_MAX_DEPTH = 32
# What these are given is read anew at every decision, so they take longest by far.
_PARSED = frozenset({"datetime", "decimal", "duration", "ip"})
_MAX_PARSED = 1000
_MAX_NAME = 128
_MAX_PATH = 8
# Each bad one gets an error of Cedar's with the whole text in it.
_MAX_BACKSLASHES = 100
_MAX_STRING = 4096
# Of the parsed policy as JSON: Python's own parser has an end as well.
_MAX_NESTING = 400
_MOST_TOLD = 10
_MAX_READY = 100
_CHECKED_AT_ONCE = 20
# As Cedar's own grammar has them: a comment ends at a carriage return too, and no line ends after a backslash.
_LEXEMES = re.compile(r'//[^\n\r]*|"(?:\\[^\n]|[^"\\])*("?)|[A-Za-z_]\w*|\d+|[^\w\s]', re.ASCII)
_APPLIES = re.compile(r"action\s+([\w,\s]+?)\s+(?:in\s*\[\w+\]\s*)?appliesTo\s*\{[^}]*resource:\s*\[([\w,\s]+)\]")
_OWN_ID = re.compile(r"for policy `policy\d+`, ")
_JSON_LEXEMES = re.compile(r'"(?:\\.|[^"\\])*"|[\[\]{}]')
_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_RESERVED = ("grants", "tenant-isolation", "insecure-loopback", NOTHING, FAULTY)
OF_GRANTS = (Action.SIGN, Action.ATTEST, Action.VERIFY, Action.GET_KEY, Action.GET_PUBLIC_KEY)
"""Actions that a workload can be granted."""
OF_BREAK_GLASS = (
    *(Action.SIGN, Action.CREATE_KEY, Action.ROTATE_KEY, Action.IMPORT_KEY, Action.SET_KEY_VERSION_STATE),
    *(Action.COMPROMISE_KEY_VERSION, Action.GET_KEY, Action.LIST_KEYS, Action.READ_AUDIT_LOG),
)
"""Actions that a person can have in an emergency."""
GRANTABLE = tuple(dict.fromkeys((*OF_GRANTS, *OF_BREAK_GLASS)))
"""Actions that grants and break-glass can be for."""
_TEMPLATES = "\n".join(
    f'@id("{action}") permit (principal == ?principal, action == Sealkeeper::Action::"{action}",'
    " resource in ?resource);"
    for action in GRANTABLE
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        principal: who asks.
        action: for what.
        resource: about what.
        address: IP address that the call comes from; empty where it is not known.
        now: when.
        facts: what is known of the resource.
    """

    principal: Principal
    action: Action
    resource: ResourceName
    address: str
    now: datetime
    facts: Facts


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a resource.

    Attributes:
        labels: of a key; ``None`` where there is no such key.
        proposed: of a proposal: action, proposer and the key that it is about, or an empty string.
    """

    labels: Mapping[str, str] | None = None
    proposed: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class Link:
    """A grant as the engine knows it.

    Attributes:
        name: of the grant.
        subject: who may.
        is_person: that subject has a role of persons.
        actions: what.
        resource: a key or a tenant.
        break_glass: it is for an emergency.
    """

    name: str
    subject: str
    is_person: bool
    actions: Sequence[Action]
    resource: KeyName | str
    break_glass: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy, ready to be asked; made by ``compile_policy``.

    Attributes:
        names: the ids that people gave, by Cedar's own.
        approvals: that permits ask for, by Cedar's own ids.
        texts: of the policies, by the ids that people gave.
        uses_context: an answer depends on more than who asks for what.
    """

    names: Mapping[str, str]
    approvals: Mapping[str, int]
    texts: Mapping[str, str] = field(repr=False)
    uses_context: bool
    _set: Any = field(repr=False)

    def granting(self, links: Sequence[Link]) -> Policy:
        """The policy with grants added."""
        if not links:
            return self
        templates = self._set.with_added_str(_TEMPLATES)
        linked = templates.with_linked_batch([made for one in links for made in _template_links(one)])
        names = {f"{one.name}#{action}": one.name for one in links for action in one.actions}
        return Policy({**self.names, **names}, self.approvals, self.texts, self.uses_context, linked)

    def decide(self, question: Question, version: str, emergencies: frozenset[str] = frozenset()) -> Decision:
        """Answer a question. Where a policy cannot be evaluated, the answer is no: it may be one that forbids.

        Args:
            question: what is asked.
            version: of the policy, for the answer.
            emergencies: names of the grants that are break-glass.
        """
        answer = self.ask(question)
        if answer.diagnostics.errors:
            return Decision(False, FAULTY, version)
        decided = sorted(answer.diagnostics.reasons)
        policy = ",".join(dict.fromkeys(self.names[one] for one in decided)) or NOTHING
        if not answer.allowed:
            return Decision(False, policy, version)
        needed = self._needed(question.action, decided)
        broken = [self.names[one] for one in decided if self.names[one] in emergencies]
        ordinary = [one for one in decided if self.names[one] not in emergencies]
        if not broken or (ordinary and not needed):
            return Decision(True, policy, version, needed)
        # Two people have agreed that it is an emergency; what they cannot agree to in advance still needs its own.
        waived = 0 if question.action not in ALWAYS_APPROVED else needed
        return Decision(True, policy, version, waived, broken[0])

    def ask(self, question: Question) -> cedarpy.AuthzResult:
        """Cedar's own answer."""
        request = {
            "principal": _principal_id(question.principal),
            "action": {"type": "Sealkeeper::Action", "id": str(question.action)},
            "resource": _resource_id(question.resource),
            "context": _context(question),
        }
        entities = _actions().with_added_json_str(json.dumps(_entities(question)))
        return cedarpy.is_authorized(request, self._set, entities)

    def _needed(self, action: Action, decided: Sequence[str]) -> int:
        usual = PROPOSABLE.get(action, 0)
        # The strictest of the tenant's own permits counts; where a grant alone permits, what is usual.
        own = [self.approvals.get(one, usual) for one in decided if one in self.approvals or "#" not in one]
        needed = max(own, default=usual)
        return max(needed, 1) if action in ALWAYS_APPROVED else needed


def concerning(links: Sequence[Link], action: Action, resource: ResourceName) -> list[Link]:
    """The grants that could permit an action on a resource, each for that action alone: what Cedar is given takes time.

    Of several that do the same, the first ``MOST_ALIKE`` are enough, of break-glasses and of the others.
    """
    about = resource.parent if isinstance(resource, KeyVersionName) else resource
    found: dict[bool, list[Link]] = {False: [], True: []}
    for one in links:
        # One about a tenant, and one to read the audit log, which is no tenant's, fit what they are asked about.
        if action in one.actions and (isinstance(one.resource, str) or one.resource == about):
            found[one.break_glass].append(one)
    return [replace(one, actions=(action,)) for alike in found.values() for one in alike[:MOST_ALIKE]]


def with_grants(policy: Policy, action: Action, links: Sequence[Link], ready: dict[tuple[str, ...], Policy]) -> Policy:
    """A policy with the grants that concern an action, from ``ready`` where it is there, which it is afterwards.

    Args:
        policy: without them.
        action: that ``concerning`` was asked about.
        links: as it gave them.
        ready: of this policy, by action and names of grants; emptied when there are too many.
    """
    if not links:
        return policy
    which = action, *(one.name for one in links)
    found = ready.get(which)
    if found is None:
        if len(ready) >= _MAX_READY:
            ready.clear()
        found = ready[which] = policy.granting(links)
    return found


@cache
def schema_text() -> str:
    """The schema, in Cedar's own syntax."""
    return _file("schema.cedarschema")


@cache
def recovery_policy() -> str:
    """The policy in the place of one that cannot be used."""
    return _file("recovery.cedar")


@cache
def default_policy() -> str:
    """The policy that tenants begin with."""
    return _file("default.cedar")


@cache
def kinds_of(action: Action) -> frozenset[str]:
    """The kinds of resources that the schema has an action for: ``Key``."""
    for names, kinds in _APPLIES.findall(re.sub("//[^\n]*", "", schema_text())):
        if action in re.split(r"[,\s]+", names):
            return frozenset(re.split(r"[,\s]+", kinds))
    raise LookupError(action)


def kind_of(resource: ResourceName) -> str:
    """What the schema calls such a resource: ``Key``."""
    return _KINDS.get(type(resource), "Tenant")


def compile_policy(text: str, field_name: str = "text") -> Policy:
    """Check a policy and make it ready. Takes up to a second: not for the event loop.

    Args:
        text: Cedar policies.
        field_name: for errors.

    Raises:
        InvalidRequestError: with the reason POLICY_INVALID; it names the policies and what is wrong with each.
    """
    statements = _require_bounded(text, field_name)
    _require_valid(statements, field_name)
    policies = _documents(statements, field_name)
    if not 1 <= len(policies) <= MAX_POLICIES:
        raise _invalid(field_name, f"has {len(policies)} policies; 1 to {MAX_POLICIES} are allowed")
    names = _names(policies, field_name)
    approvals = {
        one: _approvals(names[one], policy, field_name)
        for one, policy in policies.items()
        if "approvals" in policy.get("annotations", {})
    }
    # Cedar counts the policies of a text from policy0 on.
    texts = {names[f"policy{place}"]: one for place, one in enumerate(statements[:-1])}
    uses_context = any(_mentions_context(policy.get("conditions", [])) for policy in policies.values())
    return Policy(names, approvals, texts, uses_context, cedarpy.PolicySet.from_str(text, release_gil=True))


def _file(name: str) -> str:
    return files("sealkeeper.server").joinpath("cedar", name).read_text("utf-8")


@cache
def _schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema_text())


@cache
def _actions() -> cedarpy.Entities:
    """The actions with their groups, which the schema knows."""
    return cedarpy.Entities.from_json_str("[]", _schema())


@dataclass(slots=True)
class _Statement:
    """A policy as it is written, and what has been counted in it.

    Attributes:
        start: where it begins in the text.
        tokens: names, numbers, strings and signs.
        depth: brackets that are open, and every if before.
        deepest: the most of that at a time.
        path: names in a row with dots between.
        longest: such row.
        backslashes: in strings.
    """

    start: int
    tokens: int = 0
    depth: int = 0
    deepest: int = 0
    path: int = 0
    longest: int = 0
    backslashes: int = 0

    def take(self, lexeme: str) -> None:
        """Count one more."""
        self.tokens += 1
        # Nobody sees where an if ends, so it counts to the end of the policy.
        if lexeme in "([{" or lexeme == "if":
            self.depth += 1
            self.deepest = max(self.deepest, self.depth)
        elif lexeme in ")]}":
            self.depth -= 1
        self.backslashes += lexeme.count("\\")
        if lexeme == ".":
            self.path += 1
            self.longest = max(self.longest, self.path)
        elif not lexeme[0].isalpha() and lexeme[0] != "_":
            self.path = 0

    def require_bounded(self, field_name: str) -> None:
        """Refuse what is too much of it."""
        if self.backslashes > _MAX_BACKSLASHES:
            raise _invalid(
                field_name, f"has a policy with {self.backslashes} backslashes; {_MAX_BACKSLASHES} are allowed"
            )
        if self.tokens > _MAX_TOKENS or self.deepest > _MAX_DEPTH or self.longest > _MAX_PATH:
            raise _invalid(
                field_name,
                f"has a policy of {self.tokens} words and signs, in {self.deepest} brackets and ifs, with "
                f"{self.longest} dots in a row; {_MAX_TOKENS}, {_MAX_DEPTH} and {_MAX_PATH} are allowed: part it "
                "into several",
            )


def _require_bounded(text: str, field_name: str) -> list[str]:
    """The policies as they are written, and what follows the last of them."""
    if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT:
        raise _invalid(field_name, f"must have 1 byte to {MAX_TEXT} bytes")
    if not all(one.isprintable() or one in "\n\t\r" for one in text):
        raise _invalid(field_name, "must be printable text")
    found: list[str] = []
    statement, total, parsed = _Statement(0), 0, 0
    for match in _LEXEMES.finditer(text):
        lexeme = match[0]
        if lexeme.startswith("//"):
            continue
        _require_lexeme(lexeme, match[1], field_name)
        statement.take(lexeme)
        parsed += lexeme in _PARSED
        if lexeme == ";":
            statement.require_bounded(field_name)
            total += statement.tokens
            found.append(text[statement.start : match.end()].strip())
            statement = _Statement(match.end())
    statement.require_bounded(field_name)
    if total + statement.tokens > _MAX_ALL_TOKENS or len(found) > MAX_POLICIES:
        raise _invalid(
            field_name,
            f"has {len(found)} policies of {total + statement.tokens} words and signs; {MAX_POLICIES} and "
            f"{_MAX_ALL_TOKENS} are allowed",
        )
    if parsed > _MAX_PARSED:
        raise _invalid(
            field_name, f"has {parsed} of {', '.join(sorted(_PARSED))} in all policies; {_MAX_PARSED} are allowed"
        )
    return [*found, text[statement.start :].strip()]


def _require_lexeme(lexeme: str, closing: str | None, field_name: str) -> None:
    if closing == "":
        raise _invalid(field_name, 'has a string without an end: one quote (") is missing')
    most = _MAX_NAME if closing is None else _MAX_STRING
    if len(lexeme) > most:
        kind = "name" if closing is None else "string"
        raise _invalid(field_name, f"has a {kind} of {len(lexeme)} characters; {most} are allowed")


def _require_valid(statements: Sequence[str], field_name: str) -> None:
    """Check some at a time, until enough is wrong: to tell of everything could take very long, and much memory."""
    told: list[str] = []
    for start in range(0, len(statements), _CHECKED_AT_ONCE):
        part = "\n".join(statements[start : start + _CHECKED_AT_ONCE])
        checked = cedarpy.validate_policies(part, _schema(), release_gil=True)
        names = checked.id_annotations_by_policy_id
        if not checked.validation_passed:
            told += [_told(names.get(one.policy_id, ""), str(one.error)) for one in checked.errors]
        if len(told) >= _MOST_TOLD:
            break
    if told:
        raise _invalid(field_name, *told)


def _told(name: str, error: str) -> str:
    return f"{name}: {_OWN_ID.sub('', error)}".removeprefix(": ")


def _documents(statements: Sequence[str], field_name: str) -> dict[str, Mapping[str, Any]]:
    """The policies as Cedar writes them in JSON, by its ids: it counts those of a text from policy0 on."""
    found = {}
    # Some at a time, since nothing else runs meanwhile.
    for start in range(0, len(statements), _CHECKED_AT_ONCE):
        document = _document("\n".join(statements[start : start + _CHECKED_AT_ONCE]), field_name)
        if document.get("templates"):
            raise _invalid(field_name, "templates (?principal, ?resource) are not allowed: use grants")
        for one, policy in document["staticPolicies"].items():
            found[f"policy{start + int(one.removeprefix('policy'))}"] = policy
    return found


def _document(text: str, field_name: str) -> Any:
    written = cedarpy.policies_to_json_str(text)
    depth = deepest = 0
    for match in _JSON_LEXEMES.finditer(written):
        if match[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "]}":
            depth -= 1
    if deepest > _MAX_NESTING:
        raise _invalid(
            field_name, "has a policy with too many && || + - * . or if in a row: use a set, or part it into several"
        )
    return json.loads(written)


def _names(policies: Mapping[str, Any], field_name: str) -> dict[str, str]:
    names: dict[str, str] = {}
    wrong = []
    for one, policy in policies.items():
        name = policy.get("annotations", {}).get("id") or ""
        if not _ID.fullmatch(name) or name in _RESERVED:
            wrong.append(f'{one}: needs an @id("...") of A-Z, a-z, 0-9, ".", "_" and "-" that is not reserved')
        elif name in names.values():
            wrong.append(f"{name}: this @id is there twice")
        names[one] = name
    if wrong:
        raise _invalid(field_name, *wrong)
    return names


def _approvals(name: str, policy: Mapping[str, Any], field_name: str) -> int:
    text = policy["annotations"]["approvals"] or ""
    if policy["effect"] != "permit" or not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > MAX_APPROVALS:
        raise _invalid(field_name, f'{name}: @approvals("N") goes with permit, and N is from 0 to {MAX_APPROVALS}')
    return int(text)


def _mentions_context(expression: Any) -> bool:
    left = [expression]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if one.get("Var") == "context":
                return True
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return False


def _invalid(field_name: str, *problems: str) -> InvalidRequestError:
    return InvalidRequestError(
        [FieldViolation(field_name, one[:500]) for one in problems[:_MOST_TOLD]],
        reason="POLICY_INVALID",
        next_step="see the schema: sealkeeper policy show --schema; try it: sealkeeper policy test",
    )


def _template_links(one: Link) -> Iterator[dict[str, Any]]:
    kind = "Sealkeeper::Person" if one.is_person else "Sealkeeper::Workload"
    resource = _tenant_id(one.resource) if isinstance(one.resource, str) else _resource_id(one.resource)
    for action in one.actions:
        # Logs are of no tenant; that records of others are not shown is seen to where the audit log is read.
        about = resource if action is not Action.READ_AUDIT_LOG else {"type": "Sealkeeper::Log", "id": "logs/audit"}
        yield {
            "template_id": str(action),
            "new_id": f"{one.name}#{action}",
            "values": {"?principal": {"type": kind, "id": one.subject}, "?resource": about},
        }


def _principal_id(principal: Principal) -> dict[str, str]:
    return {"type": f"Sealkeeper::{'Person' if principal.is_person else 'Workload'}", "id": principal.subject}


def _tenant_id(tenant: str) -> dict[str, str]:
    return {"type": "Sealkeeper::Tenant", "id": tenant}


_KINDS: Mapping[type, str] = {
    KeyName: "Key",
    KeyVersionName: "Key",
    KeyImportName: "KeyImport",
    ProviderName: "Provider",
    GrantName: "Grant",
    ProposalName: "Proposal",
    GateName: "Gate",
    GateVersionName: "Gate",
    GateExceptionName: "Gate",
    GateDecisionName: "Gate",
    LogName: "Log",
}
_PARTS = (KeyVersionName, GateVersionName, GateExceptionName, GateDecisionName)
"""Of something that policies speak of; they do not speak of these."""


def _resource_id(resource: ResourceName) -> dict[str, str]:
    kind = _KINDS.get(type(resource))
    if kind is None:
        return _tenant_id(getattr(resource, "tenant", ""))
    name = resource.parent if isinstance(resource, _PARTS) else resource
    return {"type": f"Sealkeeper::{kind}", "id": str(name)}


def _context(question: Question) -> dict[str, Any]:
    context = {"now": {"__extn": {"fn": "datetime", "arg": rfc3339(question.now)}}}
    address = _ip(question.address)
    if address:
        context["address"] = {"__extn": {"fn": "ip", "arg": address}}
    return context


@lru_cache(maxsize=4096)
def _ip(text: str) -> str:
    """An address as Cedar takes it, IPv4 within IPv6 (RFC 4291 section 2.5.5.2) as IPv4; empty where it is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)


def _entities(question: Question) -> list[dict[str, Any]]:
    principal, resource = question.principal, question.resource
    parents = [_tenant_id(principal.tenant)]
    found = [{"uid": _principal_id(principal), "attrs": _caller(principal), "parents": parents}]
    uid = _resource_id(resource)
    if uid != parents[0]:
        entity: dict[str, Any] = {"uid": uid, "attrs": {}, "parents": [] if isinstance(resource, LogName) else parents}
        if isinstance(resource, KeyName | KeyVersionName):
            labels = question.facts.labels
            entity["attrs"] = {"name": resource.key, "exists": labels is not None}
            entity["tags"] = dict(labels or {})
        elif isinstance(resource, ProviderName):
            entity["attrs"] = {"name": resource.provider}
        elif isinstance(resource, LogName):
            entity["attrs"] = {"name": resource.log}
        elif isinstance(resource, ProposalName):
            entity["attrs"] = _proposed(question.facts.proposed)
        elif isinstance(resource, GateName | GateVersionName | GateExceptionName | GateDecisionName):
            entity["attrs"] = {"name": resource.gate}
        found.append(entity)
    return found


def _caller(principal: Principal) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(principal.attributes)
    if "ref_protected" in attributes:
        attributes["ref_protected"] = attributes["ref_protected"] == "true"
    return {
        "subject": principal.subject,
        "role": str(principal.role),
        "method": str(principal.method),
        "issuer": principal.issuer,
        "person": principal.person,
        "hardware": principal.hardware,
        "acr": principal.acr,
        "amr": list(principal.amr),
        **attributes,
    }


def _proposed(proposed: tuple[str, str, str]) -> dict[str, Any]:
    action, proposer, key = proposed
    found: dict[str, Any] = {"action": action, "proposer": proposer}
    if key:
        found["key"] = {"__entity": {"type": "Sealkeeper::Key", "id": key}}
    return found
