"""Tenants cannot observe each other: what one sees is the same whether the other makes calls or not.

Each example has four tenants of one gateway: one makes random calls while the other that it names is silent, and one
makes the same calls interleaved with random ones of the other, which name each other's things. What both see is
compared: codes, reasons, texts, details, answers, lists, page tokens, whoami, quotas, trust roots, etags and audit
records. Left out is what varies by itself (times, random keys and signatures; random ids are told apart by when they
were first seen) and what docs/tenants.md names as everybody's: places in the logs, their sizes, checkpoints and proofs,
and the health of a store that all share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sealkeeper.server.policy_engine import default_policy
from tests.e2e.running import TENANT, Running
from tests.e2e.two_tenants import METHODS, REQUESTS, WHOSE, Call, Side, Tenant, interleaved

EXAMPLES = 6
# So that there is something to call about: keys, a signature, an import, a grant, a policy and a gate that others
# approved of.
_FIRST = tuple(
    Call(method, True, caller, "own", number)
    for method, caller, number in (
        *(("CreateKey", 0, 0), ("CreateKey", 0, 1), ("CreateKey", 0, 5), ("Sign", 0, 0)),
        *(("BeginKeyImport", 0, 0), ("FinishKeyImport", 0, 1), ("DecideProposal", 1, 0), ("FinishKeyImport", 0, 1)),
        *(("CreateGrant", 0, 0), ("DecideProposal", 1, 1), ("UpdatePolicy", 0, 0), ("DecideProposal", 1, 2)),
        *(("UpdateGate", 0, 1), ("DecideProposal", 1, 3), ("Evaluate", 0, 1)),
    )
)
_LATER = (
    *("CreateKey", "CreateGrant", "BeginKeyImport", "DecideProposal", "DecideProposal", "Sign", "Sign", "Verify"),
    *("Evaluate", "Attest", "CreateGateException", "DecideProposal"),
)
_numbers = count()


@dataclass
class House:
    """A gateway with many tenants."""

    gateway: Running

    def new(self) -> Tenant:
        return Tenant(tenant_name(next(_numbers)), self.gateway)


def tenant_name(number: int) -> str:
    return f"tenant-{number:03}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    gateway = Running.make(tmp_path_factory.mktemp("noninterference") / "gateway", policy=default_policy())
    names = ", ".join(f'"{tenant_name(number)}"' for number in range(4 * (EXAMPLES + 2)))
    gateway.change_settings(lambda text: text.replace(f'tenants = ["{TENANT}"]', f'tenants = ["{TENANT}", {names}]'))
    (folder := tmp_path_factory.mktemp("theirs")).joinpath("seal").write_text("5a" * 32)
    (folder / "seal").chmod(0o600)
    theirs = f'[providers.theirs]\nuri = "software://{folder}/keys?sealing-key-source=file:{folder}/seal"\n'
    gateway.change_settings(lambda text: f'{text}\n{theirs}workers = 1\ntenants = ["{TENANT}"]\n')
    with gateway.running():
        yield House(gateway)


def a_call(method: str) -> st.SearchStrategy[Call]:
    return st.builds(
        Call,
        st.just(method),
        st.sampled_from((True, True, True, False)),
        st.integers(0, 5),
        st.sampled_from(WHOSE),
        st.integers(0, 59),
    )


def some_calls() -> st.SearchStrategy[list[Call]]:
    """Every method at least once, those that make things more often, after what makes the first things."""
    shuffled = st.permutations([*METHODS, *_LATER])
    return shuffled.flatmap(lambda methods: st.tuples(*map(a_call, methods)).map(lambda made: [*_FIRST, *made]))


def test_there_is_a_request_of_every_method() -> None:
    assert set(REQUESTS) == set(METHODS)


@given(some_calls(), some_calls(), st.lists(st.integers(0, 2), min_size=120, max_size=120))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    # Tenants are used up by examples, so a failure is told as it was found.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_a_tenant_sees_is_the_same_whatever_another_one_does(
    house: House, calls: list[Call], others: list[Call], turns: list[int]
) -> None:
    with ExitStack() as stack:
        alone, silent, beside, noisy = (house.new() for _ in range(4))
        for one in (alone, silent, beside, noisy):
            stack.callback(one.close)
        alone.begin()
        side = Side(alone, silent)
        wanted = [(call, side.make(call)) for call in calls]
        beside.begin()
        own, theirs = Side(beside, noisy), Side(noisy, beside)
        seen = []
        for mine, call in interleaved(calls, others, turns[: len(calls)]):
            if mine:
                seen.append((call, own.make(call)))
            else:
                theirs.make(call)
        differing = [(one, other) for one, other in zip(wanted, seen, strict=True) if one != other]
        assert not differing, "\n".join(map(str, (differing[0][0], differing[0][1][1])))
        records = [(one, other) for one, other in zip(side.records(), own.records(), strict=True) if one != other]
        assert not records, "\n".join(records[0])
