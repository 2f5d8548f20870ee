"""Everything that gates are made of, put together: policies, exceptions, evidence, decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sealkeeper.server.bundle_files import BundleFiles
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.gate_decisions import GateDecisions
from sealkeeper.server.gate_evaluation import GateEvaluation
from sealkeeper.server.gate_evidence import AttestationSource, EvidenceSources
from sealkeeper.server.gate_exceptions import GateExceptions, open_gate_exceptions
from sealkeeper.server.gate_registries import Registries
from sealkeeper.server.gate_simulation import GateSimulations
from sealkeeper.server.gate_snapshots import GateSnapshots
from sealkeeper.server.gate_summaries import GateSummaries
from sealkeeper.server.gates import Gates, open_gates
from sealkeeper.server.keys import Keys
from sealkeeper.server.settings import Settings
from sealkeeper.server.signing import Signing
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.gate_tables import GateDecisionTable, GateExceptionTable, GateTable
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.trust import Trust

EVIDENCE_FOLDER = "evidence"


@dataclass(frozen=True, slots=True)
class GateParts:
    """What gates are made of.

    Attributes:
        gates: of the tenants.
        exceptions: of these.
        decisions: that were made.
        evaluation: makes them.
        summaries: signs them.
        snapshots: for gates that decide by themselves.
        simulations: make them again.
        files: of evidence and summaries.
        clock: the time.
    """

    gates: Gates
    exceptions: GateExceptions
    decisions: GateDecisions
    evaluation: GateEvaluation
    summaries: GateSummaries
    snapshots: GateSnapshots
    simulations: GateSimulations
    files: BundleFiles
    clock: SteadyClock

    async def tidy(self) -> None:
        """Make counts durable, and forget what is too old."""
        await self.exceptions.tidy(self.clock.at_least_latest())
        await self.decisions.tidy()

    async def close(self) -> None:
        """Finish what is under way."""
        await self.evaluation.close()
        await self.gates.close()
        await self.exceptions.close()


async def open_gate_parts(
    settings: Settings,
    database: Database,
    keys: Keys,
    attestations: AttestationSource,
    signing: Signing,
    trust: Trust,
    clock: SteadyClock,
    telemetry: Telemetry,
) -> GateParts:
    """Read everything.

    Raises:
        SealkeeperError: the database does not answer.
    """
    own, domain = settings.gates, settings.gateway.domain
    gates = await open_gates(GateTable(database), clock, keys)
    exceptions = await open_gate_exceptions(GateExceptionTable(database), clock)
    files = BundleFiles(settings.storage.directory / EVIDENCE_FOLDER)
    table = GateDecisionTable(database)
    decisions = GateDecisions(table, files, clock, own.keep_decisions, own.max_decisions)
    sources = EvidenceSources(attestations, table, files, domain)
    registries = Registries(own.registries, own.cache, clock)
    evaluation = GateEvaluation(sources, registries, exceptions, trust, clock, own.cache, len(settings.tenants))
    summaries = GateSummaries(signing, domain, own.cache)
    snapshots = GateSnapshots(gates, exceptions, signing, trust, clock, own.snapshot_lifetime)
    simulations = GateSimulations(decisions, sources, evaluation, exceptions, trust)
    telemetry.watch_gates(exceptions.active, lambda: _modes(gates))
    return GateParts(gates, exceptions, decisions, evaluation, summaries, snapshots, simulations, files, clock)


def _modes(gates: Gates) -> Iterable[tuple[str, str, str]]:
    for one in gates.all():
        mode = str(one.policy.mode) if one.policy is not None else "unusable"
        yield one.version.name.tenant, one.version.name.gate, mode
