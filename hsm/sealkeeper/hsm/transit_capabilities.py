"""What the gateway's token may do in a transit server, as the server itself tells.

``sys/capabilities-self`` (https://openbao.org/api-docs/system/capabilities-self/) says which capabilities a token has
on a path, by all its policies together. What a policy says of parameters is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sealkeeper.hsm.provider import Diagnosis
from sealkeeper.hsm.transit_uri import TransitUri


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability that the policy in ``docs/providers/transit.md`` gives.

    Attributes:
        path: that it is on.
        rule: path of the policy's rule.
        capability: its name.
        purpose: what it is for, to follow "may".
        needed: the gateway is of no use without it.
    """

    path: str
    rule: str
    capability: str
    purpose: str
    needed: bool = False


def capabilities_wanted(mount: str, key: str) -> list[Wanted]:
    """What the gateway should be allowed, with the name of any key in the place of all."""

    def on(path: str, capability: str, purpose: str, *, needed: bool = False) -> Wanted:
        return Wanted(f"{mount}/{path.replace('+', key)}", f"{mount}/{path}", capability, purpose, needed)

    renewal = "auth/token/renew-self"
    return [
        on("keys/+", "read", "read public keys", needed=True),
        on("sign/+", "update", "sign", needed=True),
        on("keys/+", "create", "make keys"),
        on("keys/+", "delete", "destroy keys"),
        on("keys/+/config", "update", "destroy keys"),
        on("wrapping_key", "read", "take keys from outside"),
        on("keys/+/import", "update", "take keys from outside"),
        Wanted(renewal, renewal, "update", "renew its token"),
    ]


def diagnoses_of(wanted: Sequence[Wanted], given: Mapping[str, object] | None, uri: TransitUri) -> list[Diagnosis]:
    """What the server's answer means.

    Args:
        wanted: what it was asked about.
        given: its answer: capabilities by path; ``None`` where it did not let the gateway ask.
        uri: of the store.
    """
    if given is None:
        return [
            Diagnosis(
                "does not say what the gateway may do",
                passed=False,
                next_step='have the gateway\'s policy say so: path "sys/capabilities-self" '
                '{ capabilities = ["update"] }; it tells a token about itself only',
                needed=False,
            )
        ]
    missing: dict[str, list[Wanted]] = {one.purpose: [] for one in wanted}
    for one in wanted:
        found = given.get(one.path)
        capabilities = found if isinstance(found, list) else []
        if "root" in capabilities:
            return [_root(uri)]
        if one.capability not in capabilities:
            missing[one.purpose].append(one)
    # A token from a file is gone for good once it has run out; another kind of login is just repeated.
    vital = {one.purpose for one in wanted if one.needed} | (
        {"renew its token"} if uri.auth.method == "token" else set()
    )
    return [_diagnosis(purpose, lacking, needed=purpose in vital) for purpose, lacking in missing.items()]


def _diagnosis(purpose: str, lacking: Sequence[Wanted], *, needed: bool) -> Diagnosis:
    if not lacking:
        return Diagnosis(f"may {purpose}", passed=True, needed=needed)
    rules = " and ".join(f'{one.capability} on "{one.rule}"' for one in lacking)
    return Diagnosis(
        f"may not {purpose}",
        passed=False,
        next_step=f"to let it {purpose}, give its policy {rules}, as docs/providers/transit.md has it",
        needed=needed,
    )


def _root(uri: TransitUri) -> Diagnosis:
    return Diagnosis(
        "gives the gateway a root token, which may do everything",
        passed=False,
        next_step=f"give it a token of the policy in docs/providers/transit.md (auth={uri.auth.method})",
    )
