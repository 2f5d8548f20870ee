"""References mean what Docker and the OCI distribution spec say, and nothing else is one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.registry import ImageReference
from sealkeeper.registry.errors import ImageReferenceError
from sealkeeper.registry.reference import digest_of, referrers_tag

D256 = "sha256:" + "0123456789abcdef" * 4
D512 = "sha512:" + "0123456789abcdef" * 8


# The first ones are examples of the normalisation in docs.docker.com, "docker image tag".
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("ghcr.io/acme/app:1.2", "ghcr.io/acme/app:1.2"),
        ("GHCR.io/acme/app:1.2", "ghcr.io/acme/app:1.2"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1"),
        (f"ghcr.io/acme/app@{D256}", f"ghcr.io/acme/app@{D256}"),
        (f"ghcr.io/acme/app:1.2@{D512}", f"ghcr.io/acme/app:1.2@{D512}"),
        ("acme/app__x-y--z.w:A_b.c-1", "docker.io/acme/app__x-y--z.w:A_b.c-1"),
    ],
)
def test_a_reference_is_normalised(text: str, canonical: str) -> None:
    assert str(ImageReference.parse(text)) == canonical
    assert ImageReference.parse(canonical) == ImageReference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "/app",
        "app/",
        "ghcr.io//app",
        "ghcr.io/Acme/app",
        "App",
        "ghcr.io/acme/app:",
        "ghcr.io/acme/app:a b",
        "ghcr.io/acme/app:" + "a" * 129,
        "ghcr.io/acme/app@sha256:00",
        f"ghcr.io/acme/app@{D256.upper()}",
        f"ghcr.io/acme/app@{D256}0",
        "ghcr.io/acme/app@md5:" + "0" * 32,
        f"ghcr.io/acme/app@{D256}@{D256}",
        "ghcr.io/../app",
        "ghcr.io/a/../../app",
        "user@ghcr.io/app",
        "https://ghcr.io/acme/app",
        "ghcr.io:0/app",
        "ghcr.io:65536/app",
        "ghcr.io:99999999/app",
        "gh_cr.io/app",
        "-ghcr.io/app",
        "ghcr.io/acme/app?x=y",
        "ghcr.io/acme/app#x",
        "ghcr.io/acme/app%2f",
        "ghcr.io/acme/app\n",
        "ghcr.io/acme/app:1\n",
        f"ghcr.io/acme/app@{D256}\n",
        "ghcr.io\\evil/app",
        "ghcr.io/" + "a" * 256,
        "a" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ImageReferenceError) as refused:
        ImageReference.parse(text)
    assert len(str(refused.value)) < 200


@given(st.text(max_size=80))
def test_a_text_is_a_reference_that_reads_the_same_again_or_is_refused(text: str) -> None:
    try:
        found = ImageReference.parse(text)
    except ImageReferenceError:
        return
    assert ImageReference.parse(str(found)) == found


def test_a_digest_is_that_of_the_bytes() -> None:
    assert digest_of(b"abc") == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert digest_of(b"abc", D512) == f"sha512:{hashlib.sha512(b'abc').hexdigest()}"


def test_the_tag_for_referrers_is_that_of_the_specification() -> None:
    assert referrers_tag(D256) == D256.replace(":", "-")
    assert referrers_tag(D256, ".sig") == D256.replace(":", "-") + ".sig"
    # "truncated to the first 64 characters" of the encoded part
    assert referrers_tag(D512) == "sha512-" + "0123456789abcdef" * 4
