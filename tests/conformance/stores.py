"""The stores that the suite runs over, one row each: a function that sets one up and gives its URI meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.stores.aws import moto_kms
from tests.stores.azure_vault import azure_vault
from tests.stores.google_kms import google_kms
from tests.stores.openbao import openbao
from tests.stores.softhsm import softhsm
from tests.stores.software import software
from tests.stores.tpm import tpm

STORES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "software": software,
    "softhsm": softhsm,
    "tpm": tpm,
    "azurekv": azure_vault,
    "gcpkms": google_kms,
    "awskms": moto_kms,
    "openbao": openbao,
}
