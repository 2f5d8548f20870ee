"""Variables and services of compose files, as the Compose specification has them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.compose_images import (
    ServiceRemark,
    VariableError,
    Variables,
    interpolate,
    is_compose,
    read_env_file,
    service_images,
)

GIVEN = Variables({"TAG": "1", "EMPTY": "", "BOTH": "environment"}, {"BOTH": "file", "FILE": "f", "HARD": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app:1", "app:1"),
        ("app:$TAG", "app:1"),
        ("app:${TAG}", "app:1"),
        ("$TAG-x$TAG", "1-x1"),
        ("${EMPTY}x", "x"),
        ("${TAG:-2}", "1"),
        ("${TAG-2}", "1"),
        ("${NOPE:-2}", "2"),
        ("${NOPE-2}", "2"),
        ("${EMPTY:-2}", "2"),
        ("${EMPTY-2}", ""),
        ("${NOPE:-}x", "x"),
        ("${NOPE:-${TAG}}", "1"),
        ("${NOPE:-${NEITHER:-a}-${TAG}}b", "a-1b"),
        ("${TAG:-${NOPE}}", "1"),
        ("${TAG:?said}", "1"),
        ("${EMPTY?said}", ""),
        ("${TAG:+yes}", "yes"),
        ("${EMPTY:+yes}", ""),
        ("${EMPTY+yes}", "yes"),
        ("${NOPE+yes}", ""),
        ("${BOTH}", "environment"),
        ("${FILE}", "f"),
        ("$$TAG", "$TAG"),
        ("$${TAG}", "${TAG}"),
        ("a$", "a$"),
        ("$1", "$1"),
        ("${NOPE:-registry:5000/app@sha256:ab}", "registry:5000/app@sha256:ab"),
    ],
)
def test_variables_are_resolved_as_compose_does(text: str, expected: str) -> None:
    assert interpolate(text, GIVEN) == expected


@pytest.mark.parametrize(
    "text",
    [
        "${NOPE}",
        "$NOPE",
        "${NOPE:?said}",
        "${NOPE?said}",
        "${EMPTY:?said}",
        "${NOPE:-${NEITHER}}",
        "${HARD}",
        "${HARD:-2}",
        "${TAG",
        "${}",
        "${TAG/x/y}",
        "${TAG!}",
        "${1}",
        "${NOPE:-" * 20 + "x" + "}" * 20,
        "${" * 3000,
    ],
)
def test_a_variable_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises(VariableError):
        interpolate(text, GIVEN)


def test_no_variable_is_guessed_where_the_env_file_cannot_be_read() -> None:
    unreadable = Variables({"TAG": "1"}, None)
    assert interpolate("${TAG}", unreadable) == "1"
    with pytest.raises(VariableError, match="env"):
        interpolate("${NOPE:-2}", unreadable)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# comment\n\nA=1\nexport B=2\n", {"A": "1", "B": "2"}),
        ("A=1 # comment\nB=1# none\nC= # comment\n", {"A": "1", "B": "1# none", "C": ""}),
        ("A='x $y'\nB=\"x # y\" # comment\n", {"A": "x $y", "B": "x # y"}),
        ("A: 1\nB = 2\r\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=$B\nC=x\\y\nD=it's\n", {"A": None, "C": None, "D": None}),
        ('A="x\ny"\n', None),
        ('A="x$y"\n', None),
        ("what is this\n", None),
    ],
)
def test_an_env_file_is_read_where_it_is_plain(text: str, expected: Any) -> None:
    assert read_env_file(text) == expected


@pytest.mark.parametrize(
    ("value", "file", "expected"),
    [
        ({"services": {"a": {"image": "x"}}}, "any.yaml", True),
        ({"services": {"a": {"build": "."}}}, "any.yaml", True),
        ({"services": {"a": {}, "b": None, "c": {"image": "x"}}}, "-", True),
        ({"services": {"a": {}}}, "d/docker-compose.override.yml", True),
        ({"services": {"a": {}}}, "compose.yaml", True),
        ({"services": {"_defaults": {"autowire": True}}}, "services.yaml", False),
        ({"services": ["postgres:16"]}, "compose.yaml", False),
        ({"jobs": {}}, "compose.yaml", False),
    ],
)
def test_a_compose_file_is_told_by_its_services_or_its_name(value: Any, file: str, expected: bool) -> None:
    assert is_compose(value, file) == expected


def test_services_have_their_images_and_mounts() -> None:
    services = {
        "a": {"image": "a:${TAG}", "build": ".", "volumes": ["x:/y", {"type": "image", "source": "m"}]},
        "b": {"image": "b"},
    }
    found = [(one.image, one.container, one.kind, one.path) for one in images(services)]
    assert found == [
        ("a:1", "a", "container", "services.a.image"),
        ("m", "a", "imageVolume", "services.a.volumes[1].source"),
        ("b", "b", "container", "services.b.image"),
    ]


def images(services: Any) -> list[Any]:
    return list(service_images({"services": services}, GIVEN))


@pytest.mark.parametrize(
    ("service", "rule"),
    [
        ({"build": "."}, "compose-built-here"),
        ({"build": {"context": "."}, "image": None}, "compose-built-here"),
        ({"extends": {"service": "b"}}, "compose-elsewhere"),
        ({}, "compose-elsewhere"),
        (None, "manifest-invalid"),
        ({"image": 1}, "manifest-invalid"),
        ({"image": ""}, "manifest-invalid"),
        ({"image": ["x"]}, "manifest-invalid"),
        ({"image": "x" * 5000}, "manifest-invalid"),
        ({"image": "${EMPTY}"}, "manifest-invalid"),
        ({"image": "${NOPE}"}, "compose-variable-unset"),
    ],
)
def test_a_service_without_an_image_that_can_be_told_is_remarked_on(service: Any, rule: str) -> None:
    (remark,) = images({"a": service})
    assert isinstance(remark, ServiceRemark)
    assert (remark.rule_id, remark.service) == (rule, "a")


def test_an_image_volume_without_a_source_is_remarked_on() -> None:
    _, remark = images({"a": {"image": "x", "volumes": [{"type": "image"}]}})
    assert remark.rule_id == "manifest-invalid"


def test_files_that_are_included_are_told() -> None:
    remark, _ = service_images({"include": ["other.yaml"], "services": {"a": {"image": "x"}}}, GIVEN)
    assert isinstance(remark, ServiceRemark)
    assert (remark.rule_id, remark.keys) == ("compose-elsewhere", ("include",))


@given(st.text(st.sampled_from("${}:-?+TAGx "), max_size=30))
def test_any_text_is_resolved_or_refused(text: str) -> None:
    with suppress(VariableError):
        interpolate(text, GIVEN)
