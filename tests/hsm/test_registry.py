"""Which scheme is which store, and what to install where a store's library is missing."""

from __future__ import annotations

import sys

import pytest

from sealkeeper.hsm import ProviderConfigurationError, ProviderUriError
from sealkeeper.hsm.registry import open_backend

URI = "pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/nonexistent"


def test_a_scheme_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ProviderUriError, match="known are awskms, azurekv, gcpkms, pkcs11, software, transit"):
        open_backend("vault:transit")


def test_a_store_whose_library_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where only the extra `server` is installed: None makes the import system say that there is no such module.
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    monkeypatch.delitem(sys.modules, "sealkeeper.hsm.pkcs11", raising=False)
    with pytest.raises(ProviderConfigurationError, match="pkcs11 is not installed") as caught:
        open_backend(URI)
    assert caught.value.next_step == "pip install 'sealkeeper[pkcs11]'"


def test_a_fault_in_the_stores_own_code_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sealkeeper.hsm.pkcs11", None)
    with pytest.raises(ModuleNotFoundError):
        open_backend(URI)
