"""Trust roots of other instances, as the gateway's settings name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.trust import read_trust_roots
from tests.verify.gate.signed_statements import INSTANCE


def test_a_file_and_the_public_good_instance_are_read_by_their_names(tmp_path: Path) -> None:
    place = tmp_path / "trusted_root.json"
    place.write_bytes(INSTANCE.trusted_root())
    found = read_trust_roots({"ours": str(place), "github": "public-good"})
    assert set(found) == {"ours", "github"}
    assert any(one.origin == "rekor.sigstore.dev" for one in found["github"].logs.values())


@pytest.mark.parametrize("content", [b"{}", b"\xff", None])
def test_what_is_no_trust_root_is_refused_by_its_setting(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "trusted_root.json"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"gates\.trust_roots\.ours"):
        read_trust_roots({"ours": str(place)})
