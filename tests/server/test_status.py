"""How refusals travel."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2

from sealkeeper import hsm
from sealkeeper.server import errors, log
from sealkeeper.server.status import DETAILS, code_of, reason_of, status_of


def kinds(base: type[Exception]) -> list[type[Exception]]:
    return [base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))]


@pytest.mark.parametrize("base", [errors.SealkeeperError, hsm.ProviderError, log.LogError])
def test_every_error_of_ours_has_a_code_but_the_base_and_settings(base: type[Exception]) -> None:
    never_sent = {errors.SealkeeperError, errors.ConfigurationError}
    for kind in set(kinds(base)) - never_sent:
        error = kind.__new__(kind)
        assert code_of(error) is not grpc.StatusCode.INTERNAL, kind
        assert reason_of(error).isupper()


def test_what_was_not_foreseen_says_nothing_about_itself() -> None:
    code, text, trailers = status_of(ValueError("the PIN is 4711"))
    assert code is grpc.StatusCode.INTERNAL
    assert "4711" not in text
    assert b"4711" not in dict(trailers)[DETAILS]


def test_details_are_bounded() -> None:
    violations = [errors.FieldViolation(f"items[{number}]", "x" * 10_000) for number in range(1000)]
    _, text, trailers = status_of(errors.InvalidRequestError(violations))
    assert len(dict(trailers)[DETAILS]) < 120_000
    status = status_pb2.Status.FromString(dict(trailers)[DETAILS])
    assert len(status.details) == 2
    assert text
