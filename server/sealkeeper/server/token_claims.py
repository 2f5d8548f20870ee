"""What a token says: the claims that every issuer has, attributes by kind of issuer, and rules that tell whose it is.

Nothing here trusts a claim to be of the right type or length. Refusals name claims, and never say what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.identity import ATTRIBUTES
from sealkeeper.server.identity_settings import IssuerKind, IssuerSettings, TokenRule

Claims: TypeAlias = Mapping[str, Any]

MAX_SUBJECT = 255
"""Characters of ``sub`` (OpenID Connect Core, section 2)."""

MAX_VALUE = 256
"""Characters of an attribute."""

_MAX_ID = 512
_MAX_AUDIENCES = 100
_MAX_METHODS = 20
_MAX_PERSON = 200
# The last second that datetime knows.
_LAST_TIME = 253_402_300_799
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_CIRCLECI_USER = re.compile(r"org/[^/]+/project/[^/]+/user/([^/]+)(?:/.*)?")
_ANEW = "get a new token"


class Standard(msgspec.Struct, frozen=True):
    """The claims that say for whom and when a token is good (RFC 7519 section 4.1).

    Attributes:
        issuer: ``iss``.
        subject: ``sub``.
        audiences: ``aud``.
        issued: ``iat``, seconds since the epoch.
        end: ``exp``.
        not_before: ``nbf``; ``iat`` where it has none.
        token_id: ``jti``; empty where it has none.
        acr: authentication context class.
        amr: authentication methods, sorted.
    """

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    issued: float
    end: float
    not_before: float
    token_id: str
    acr: str
    amr: tuple[str, ...]

    @classmethod
    def of(cls, claims: Claims) -> Standard:
        """Read them.

        Raises:
            UnauthenticatedError: one is missing, of another type or out of bounds.
        """
        issued, end = _time(claims, "iat"), _time(claims, "exp")
        if issued is None or end is None:
            raise UnauthenticatedError(
                "the token does not say when it was issued and when it ends (iat, exp)",
                reason="TOKEN_LIFETIME_REFUSED",
                next_step="have the issuer make tokens with an end",
            )
        not_before = _time(claims, "nbf")
        return cls(
            _text(claims, "iss", 512, required=True),
            _subject(claims),
            tuple(_texts(claims, "aud", _MAX_AUDIENCES, 512)),
            issued,
            end,
            issued if not_before is None else not_before,
            _text(claims, "jti", _MAX_ID),
            _text(claims, "acr", MAX_VALUE),
            tuple(sorted(set(_texts(claims, "amr", _MAX_METHODS, 64)))),
        )

    def require_good(self, audiences: Sequence[str], settings: IssuerSettings, now: datetime) -> None:
        """Check for whom and when. It has expired once ``now`` is later than its end and the leeway.

        Args:
            audiences: of which it must have one.
            settings: of its issuer.
            now: UTC.

        Raises:
            UnauthenticatedError: it is for somebody else, or not good now.
        """
        if not any(one in audiences for one in self.audiences):
            raise UnauthenticatedError(
                "the token is for another audience (aud)",
                reason="TOKEN_AUDIENCE_REFUSED",
                next_step="ask the issuer for a token with this gateway's audience, https:// and its domain by default",
            )
        seconds, leeway = now.timestamp(), settings.leeway.total_seconds()
        if seconds > self.end + leeway:
            raise expired()
        if max(self.issued, self.not_before) > seconds + leeway:
            raise UnauthenticatedError(
                "the token is not valid yet (iat, nbf)",
                reason="TOKEN_NOT_YET_VALID",
                next_step="set the clocks of the issuer and of the gateway right (NTP)",
            )
        if not 0 <= self.end - self.issued <= settings.max_lifetime.total_seconds():
            raise UnauthenticatedError(
                "the token is good for longer than this gateway takes (exp, iat)",
                reason="TOKEN_LIFETIME_REFUSED",
                next_step="ask the issuer for a token with a shorter life, or have issuers.*.max_lifetime raised",
            )


def expired() -> UnauthenticatedError:
    """The refusal of a token whose end, and the leeway, are over."""
    return UnauthenticatedError("the token has expired (exp)", reason="TOKEN_EXPIRED", next_step=_ANEW)


def malformed(what: str) -> UnauthenticatedError:
    """The refusal of what is not a token that an issuer would make; ``what`` is said of it in our own words."""
    return UnauthenticatedError(f"the token {what}", reason="TOKEN_MALFORMED", next_step=_ANEW)


# Attributes.


def attributes_of(kind: IssuerKind, claims: Claims, protected_refs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The typed attributes, sorted, without empty ones.

    Args:
        kind: whose claims they are.
        claims: of a token whose signature is good.
        protected_refs: patterns of refs that count as protected whatever the token says.

    Raises:
        UnauthenticatedError: a claim that becomes an attribute is of another type, too long or not printable.
    """
    found = _READERS[kind](claims)
    protected = found.pop("ref_protected", "")
    ref = found.get("ref", "")
    if ref:
        listed = any(fits(pattern, ref) for pattern in protected_refs)
        found["ref_protected"] = "true" if listed or protected == "true" else "false"
    return tuple(sorted((name, value) for name, value in found.items() if value))


def _github(claims: Claims) -> dict[str, str]:
    return {
        "repository": _value(claims, "repository"),
        "ref": _value(claims, "ref"),
        "ref_type": _value(claims, "ref_type"),
        "ref_protected": _flag(claims, "ref_protected"),
        "sha": _value(claims, "sha"),
        "workflow": _value(claims, "workflow_ref") or _value(claims, "job_workflow_ref"),
        "environment": _value(claims, "environment"),
        "runner": _value(claims, "runner_environment"),
        "actor": _value(claims, "actor"),
        "event": _value(claims, "event_name"),
        "run": _value(claims, "run_id"),
        "project": _value(claims, "repository_id"),
    }


def _gitlab(claims: Claims) -> dict[str, str]:
    ref_type, ref = _value(claims, "ref_type"), _value(claims, "ref")
    return {
        "repository": _value(claims, "project_path"),
        "ref": _full_ref(ref, ref_type),
        "ref_type": ref_type,
        "ref_protected": _flag(claims, "ref_protected"),
        "sha": _value(claims, "sha"),
        "workflow": _value(claims, "ci_config_ref_uri"),
        "environment": _value(claims, "environment"),
        "runner": _value(claims, "runner_environment"),
        "actor": _value(claims, "user_login"),
        "event": _value(claims, "pipeline_source"),
        "run": _value(claims, "pipeline_id"),
        "project": _value(claims, "project_id"),
    }


def _buildkite(claims: Claims) -> dict[str, str]:
    organization, pipeline = _value(claims, "organization_slug"), _value(claims, "pipeline_slug")
    tag, branch = _value(claims, "build_tag"), _value(claims, "build_branch")
    ref_type = "tag" if tag else "branch" if branch else ""
    return {
        "repository": f"{organization}/{pipeline}" if organization and pipeline else "",
        "ref": _full_ref(tag or branch, ref_type),
        "ref_type": ref_type,
        "sha": _value(claims, "build_commit"),
        "workflow": _value(claims, "step_key"),
        "runner": _value(claims, "runner_environment"),
        "event": _value(claims, "build_source"),
        "run": _value(claims, "build_number"),
        "project": _value(claims, "pipeline_id"),
    }


def _circleci(claims: Claims) -> dict[str, str]:
    prefix = "oidc.circleci.com/"
    ref = _value(claims, f"{prefix}vcs-ref")
    contexts = _texts(claims, f"{prefix}context-ids", 100, MAX_VALUE)
    user = _CIRCLECI_USER.fullmatch(claims["sub"])
    return {
        "repository": _value(claims, f"{prefix}vcs-origin"),
        "ref": ref,
        "ref_type": "tag" if ref.startswith("refs/tags/") else "branch" if ref.startswith("refs/heads/") else "",
        "workflow": _value(claims, f"{prefix}pipeline-definition-id"),
        # Of several contexts none is the environment; rules can look at each.
        "environment": contexts[0] if len(contexts) == 1 else "",
        "actor": user[1] if user else "",
        # Somebody may be typing in such a job.
        "event": "ssh-rerun" if _flag(claims, f"{prefix}ssh-rerun") == "true" else "",
        "run": _value(claims, f"{prefix}pipeline-id") or _value(claims, f"{prefix}workflow-id"),
        "project": _value(claims, f"{prefix}project-id"),
    }


def _kubernetes(claims: Claims) -> dict[str, str]:
    private = _object(claims, "kubernetes.io", "")
    account, pod = _object(private, "serviceaccount", "kubernetes.io."), _object(private, "pod", "kubernetes.io.")
    return {
        "namespace": _value(private, "namespace", "kubernetes.io."),
        "service_account": _value(account, "name", "kubernetes.io.serviceaccount."),
        "pod": _value(pod, "name", "kubernetes.io.pod."),
    }


def _generic(claims: Claims) -> dict[str, str]:
    found = {name: _value(claims, name) for name in ATTRIBUTES if name not in ("ref_protected", "email")}
    email = _value(claims, "email") if _is_email_good(claims) else ""
    return {**found, "ref_protected": _flag(claims, "ref_protected"), "email": email}


_READERS: Mapping[IssuerKind, Callable[[Claims], dict[str, str]]] = {
    "github": _github,
    "gitlab": _gitlab,
    "buildkite": _buildkite,
    "circleci": _circleci,
    "kubernetes": _kubernetes,
    "generic": _generic,
}


def _full_ref(ref: str, ref_type: str) -> str:
    # Whatever the name begins with: a branch can be called refs/tags/v1.
    full = {"tag": f"refs/tags/{ref}", "branch": f"refs/heads/{ref}"}.get(ref_type, "") if ref else ""
    if len(full) > MAX_VALUE:
        raise malformed(f"has a ref of more than {MAX_VALUE} characters")
    return full


# Rules.


def rule_of(rules: Sequence[TokenRule], claims: Claims) -> TokenRule:
    """The first rule whose claims all fit.

    Raises:
        UnauthenticatedError: there is none.
    """
    for rule in rules:
        if all(_claim_fits(pattern, lookup(claims, name)) for name, pattern in rule.claims.items()):
            return rule
    raise UnauthenticatedError(
        "the token is good, and no rule of this gateway says whose it is",
        reason="PRINCIPAL_UNKNOWN",
        next_step="have a rule that fits the token's claims added to issuers.*.principals",
    )


def person_of(template: str, claims: Claims) -> str:
    """Fill a rule's template in; ``{name}`` stands for a claim that is a string.

    Raises:
        UnauthenticatedError: a claim is missing or not good for a name, or an email address is said to be unverified.
    """

    def filled(match: re.Match[str]) -> str:
        value = lookup(claims, match[1])
        good = isinstance(value, str) and 0 < len(value) <= _MAX_PERSON and value.isprintable()
        if not good or (match[1] == "email" and not _is_email_good(claims)):
            raise unknown_person()
        return str(value)

    name = _PLACEHOLDER.sub(filled, template)
    if len(name) > _MAX_PERSON or name != name.strip():
        raise unknown_person()
    return name


def unknown_person() -> UnauthenticatedError:
    """The refusal of a token of a person that does not say who it is."""
    return UnauthenticatedError(
        "the token does not say which person it is of",
        reason="PRINCIPAL_UNKNOWN",
        next_step="have its subject added to people.*.identities, or the claim that the rule asks for to the token",
    )


def lookup(claims: Claims, name: str) -> Any:
    """A claim by its exact name, or by a path of names parted by dots; ``None`` where there is none.

    Names may have dots themselves: ``kubernetes.io.serviceaccount.name``.
    """
    if name in claims:
        return claims[name]
    dot = name.find(".")
    while dot >= 0:
        inner = claims.get(name[:dot])
        if isinstance(inner, Mapping):
            found = lookup(inner, name[dot + 1 :])
            if found is not None:
                return found
        dot = name.find(".", dot + 1)
    return None


def fits(pattern: str, text: str) -> bool:
    """Whether a text is the pattern with anything, or nothing, in the place of each ``*``. Takes linear time a star."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        place = text.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True


def _claim_fits(pattern: str, value: Any) -> bool:
    if isinstance(value, list):
        return any(not isinstance(one, list) and _claim_fits(pattern, one) for one in value)
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    return isinstance(value, str) and fits(pattern, value)


# Single claims.


def _time(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise malformed(f"has a {name} that is no number")
    if not 0 <= value <= _LAST_TIME:
        raise malformed(f"has a {name} that is no time")
    return float(value)


def _text(claims: Claims, name: str, most: int, *, required: bool = False) -> str:
    value = claims.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise malformed(f"has a {name} that is not 1 to {most} printable characters")
    return value


def _subject(claims: Claims) -> str:
    value = _text(claims, "sub", MAX_SUBJECT, required=True)
    # With space around it, no line of a deny list and no setting that a person wrote would name it.
    if value != value.strip():
        raise malformed("has a sub with space around it")
    return value


def _texts(claims: Claims, name: str, most: int, longest: int) -> list[str]:
    values = claims.get(name)
    if values is None:
        return []
    if isinstance(values, str):
        values = [values]
    good = isinstance(values, list) and len(values) <= most
    if not good or not all(isinstance(one, str) and 0 < len(one) <= longest and one.isprintable() for one in values):
        raise malformed(f"has a claim {name} that is not at most {most} texts of 1 to {longest} printable characters")
    return list(values)


def _value(claims: Claims, name: str, path: str = "") -> str:
    value = claims.get(name)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return str(value)
    if not isinstance(value, str) or len(value) > MAX_VALUE or not value.isprintable():
        raise malformed(f"has a {path}{name} that is not at most {MAX_VALUE} printable characters")
    return value


def _flag(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value in (None, "", "true", "false"):
        return value or ""
    raise malformed(f"has a {name} that is neither true nor false")


def _object(claims: Claims, name: str, path: str) -> Claims:
    value = claims.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise malformed(f"has a {path}{name} that is no object")
    return value


def _is_email_good(claims: Claims) -> bool:
    # Said as a text by some issuers. Where nothing is said, the issuer vouches for what it sends.
    said = claims.get("email_verified", True)
    return said is True or said == "true"
