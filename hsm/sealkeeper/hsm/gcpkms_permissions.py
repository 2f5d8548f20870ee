"""What the gateway may do in a key ring of Google Cloud KMS, as Google itself tells.

``testIamPermissions`` needs no permission and changes nothing
(https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings/testIamPermissions). What a condition
grants for some keys only, or an organisation's deny policy takes away from them, need not show on the ring.
"""

from __future__ import annotations

from collections.abc import Collection

from sealkeeper.hsm.provider import Diagnosis

_NEEDED = ("read the key ring", "read public keys", "sign")
_PURPOSES = {
    "read the key ring": ("keyRings.get",),
    "read public keys": ("cryptoKeyVersions.get", "cryptoKeyVersions.viewPublicKey"),
    "sign": ("cryptoKeyVersions.useToSign",),
    "make keys": ("cryptoKeys.create",),
    "destroy keys": ("cryptoKeyVersions.destroy",),
    "take keys from outside": (
        "importJobs.create",
        "importJobs.get",
        "importJobs.useToImport",
        "cryptoKeyVersions.create",
    ),
    "clear away what holds no key": ("cryptoKeys.delete", "cryptoKeyVersions.delete"),
}
"""Permissions of the role in ``docs/providers/gcpkms.md``, by what they are for."""

PERMISSIONS = [f"cloudkms.{one}" for names in _PURPOSES.values() for one in names]
"""All of them, as Google names them."""


def diagnoses_of(granted: Collection[str]) -> list[Diagnosis]:
    """What it means to have some of the permissions."""
    return [_diagnosis(purpose, granted) for purpose in _PURPOSES]


def _diagnosis(purpose: str, granted: Collection[str]) -> Diagnosis:
    needed = purpose in _NEEDED
    lacking = [f"cloudkms.{one}" for one in _PURPOSES[purpose] if f"cloudkms.{one}" not in granted]
    if not lacking:
        return Diagnosis(f"may {purpose}", passed=True, needed=needed)
    return Diagnosis(
        f"may not {purpose}",
        passed=False,
        next_step=f"to let it {purpose}, give the gateway's role {', '.join(lacking)} on the key ring, as "
        "docs/providers/gcpkms.md has it",
        needed=needed,
    )
