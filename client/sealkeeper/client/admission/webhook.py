"""The webhook as a service: HTTP over TLS for the API server and Gatekeeper, metrics and probes on a port of their own.

====================================  ===================================================================
``POST /validate``                    ``ValidatingWebhookConfiguration``
``POST /mutate``                      ``MutatingWebhookConfiguration``: tags are pinned; it refuses nothing
``POST /external-data/validate``      Gatekeeper, for the gate ``external_data.default``
``POST /external-data/validate/NAME``  the same, for ``external_data.NAME``
``GET /healthz``, ``GET /readyz``     probes, on both ports: a kubelet has no client certificate
``GET /metrics``                      on the port for metrics
====================================  ===================================================================
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

from aiohttp import web

from sealkeeper.client.admission import external_data
from sealkeeper.client.admission.answering import Answering
from sealkeeper.client.admission.asking import Asking, finished_by
from sealkeeper.client.admission.clock import Clock, MonotonicClock
from sealkeeper.client.admission.decider import Decider
from sealkeeper.client.admission.listening import BoundedSite, Silence
from sealkeeper.client.admission.metrics import CONTENT_TYPE, GateMetrics
from sealkeeper.client.admission.review import Response, Review, ReviewError, parse_review, response_document
from sealkeeper.client.admission.settings import WebhookSettings
from sealkeeper.client.admission.time_budget import deadline_for
from sealkeeper.client.admission.tls_context import ReloadedTls
from sealkeeper.client.errors import ConfigurationError

DeciderFactory: TypeAlias = Callable[[WebhookSettings], Decider]
_Answer: TypeAlias = Callable[[Review, float], Awaitable[Response]]
_log = logging.getLogger("sealkeeper.admission")
_REFRESH, _READY_WAIT = 10.0, 2.0
_JSON = "application/json"
# Slow strangers: seconds that a body which nobody reads may take, and that a connection may idle.
_LINGER, _KEEP_ALIVE = 1.0, 90.0
_LARGE = 128 * 1024


class _NotTakenError(Exception):
    """The request is answered with an HTTP status alone, which the API server takes for a failed call."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Webhook:
    """Serves a decider to Kubernetes.

    Args:
        settings: of it all.
        decider: decides; is closed with the webhook.
        tls: of its port.
        clock: that deadlines are of.
    """

    def __init__(
        self, settings: WebhookSettings, decider: Decider, tls: ReloadedTls, clock: Clock | None = None
    ) -> None:
        self.metrics = GateMetrics()
        self.address = ""
        self.metrics_address = ""
        self._settings = settings
        self._decider = decider
        self._tls = tls
        self._clock = clock or MonotonicClock()
        asking = Asking(decider, self._clock, self.metrics, settings.limits.max_questions)
        self._answering = Answering(settings, asking, self.metrics)
        self._runners: list[web.AppRunner] = []
        self._watch: asyncio.Task[None] | None = None
        self._body_bytes = 0
        self._reviews = 0
        self._was_ready = False
        self._ending = False

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: an address cannot be listened on.
        """
        routes = [
            web.post("/validate", self._reviewed(self._answering.validate)),
            web.post("/mutate", self._reviewed(self._answering.mutate)),
            web.post("/external-data/validate", self._provide),
            web.post("/external-data/validate/{name}", self._provide),
        ]
        probes = [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        self.address = await self._listen(self._settings.listen, "listen", [*routes, *probes], self._tls.context)
        if self._settings.metrics_listen:
            metrics = [web.get("/metrics", self._metrics), *probes]
            self.metrics_address = await self._listen(self._settings.metrics_listen, "metrics_listen", metrics, None)
        self._note_certificate()
        self._watch = asyncio.create_task(self._watch_files())

    async def drain(self) -> None:
        """Be unready for a while before ending: until then, requests still come in."""
        self._ending = True
        await self._clock.until(self._clock.now() + self._settings.limits.drain)

    async def close(self) -> None:
        """Stop listening; answers under way are finished."""
        self._ending = True
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        for runner in self._runners:
            await runner.cleanup()
        await self._decider.close()

    async def refresh_tls(self) -> None:
        """Take certificate, key and CA anew if their files changed."""
        if await self._tls.refresh():
            self._note_certificate()
        if self._tls.problem:
            self.metrics.errors.add("tls_files")

    async def _listen(
        self, address: str, setting: str, routes: list[web.RouteDef], context: ssl.SSLContext | None
    ) -> str:
        limits, silence = self._settings.limits, Silence(self._clock)
        application = web.Application(middlewares=[silence.middleware])
        application.add_routes(routes)
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            # A body that unpacks to a thousand times its size would be unpacked before anybody looks.
            auto_decompress=False,
            lingering_time=_LINGER,
            keepalive_timeout=_KEEP_ALIVE,
            # What is under way when the webhook ends has the time that it was promised.
            shutdown_timeout=limits.budget + 1,
        )
        await runner.setup()
        host, _, port = address.rpartition(":")
        try:
            site = BoundedSite(runner, host.strip("[]"), int(port), context, silence, limits.max_connections)
            await site.start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            said = getattr(error, "strerror", None) or "no such port"
            raise ConfigurationError(
                f"{setting} = {address!r}: {said}", next_step="end what listens there, or set another port"
            ) from None
        self._runners.append(runner)
        return f"{host}:{runner.addresses[0][1]}"

    def _reviewed(self, answer: _Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            deadline = deadline_for(request.query.get("timeout", ""), self._clock.now(), self._settings.limits.budget)
            try:
                async with self._body(request, deadline) as data:
                    review = await self._parsed(data)
                    response = await answer(review, deadline)
            except _NotTakenError as error:
                return self._not_taken(error)
            except ReviewError as error:
                return self._malformed(error)
            return web.json_response(response_document(review.uid, response))

        return handle

    async def _parsed(self, data: bytes) -> Review:
        limit = self._settings.limits.max_body
        # Megabytes take long enough to parse that others should not wait for it.
        return await asyncio.to_thread(parse_review, data, limit) if len(data) > _LARGE else parse_review(data, limit)

    async def _provide(self, request: web.Request) -> web.Response:
        limits = self._settings.limits
        deadline = deadline_for(request.query.get("timeout", ""), self._clock.now(), limits.budget)
        name = request.match_info.get("name", "default")
        binding = self._settings.external_data.get(name)
        if binding is None:
            text = f"external_data.{name[:64]} is no setting of the webhook"
            return web.json_response(external_data.system_error(text), status=404)
        try:
            async with self._body(request, deadline) as data:
                keys = external_data.parse_keys(data, limits.max_body, limits.max_images)
                answers = await self._answering.provide(keys, binding, deadline)
        except _NotTakenError as error:
            self.metrics.errors.add(error.reason)
            return web.json_response(external_data.system_error(str(error)), status=error.status)
        except external_data.ProviderRequestError as error:
            self.metrics.errors.add("malformed")
            return web.json_response(external_data.system_error(str(error)), status=400)
        return web.json_response(external_data.provider_response(answers))

    @asynccontextmanager
    async def _body(self, request: web.Request, deadline: float) -> AsyncIterator[bytes]:
        """The body of a request, counted among those under way until it has been answered."""
        limits = self._settings.limits
        if request.content_type != _JSON or request.headers.get("Content-Encoding", "identity") != "identity":
            raise _NotTakenError(415, "media_type", f"a body of {_JSON}, not compressed, is needed")
        length = request.content_length
        if length is not None and length > limits.max_body:
            raise _NotTakenError(413, "too_large", f"the body has more than {limits.max_body} bytes")
        reserved = limits.max_body if length is None else length
        if self._reviews >= limits.max_reviews or self._body_bytes + reserved > limits.max_bodies:
            raise _NotTakenError(429, "overloaded", "too many requests are being answered; try again")
        self._count(1, reserved)
        try:
            data = await finished_by(self._clock, deadline, _read(request, limits.max_body))
            if data is None:
                raise _NotTakenError(408, "slow_body", "the body did not come in time")
            yield data
        finally:
            self._count(-1, -reserved)

    def _count(self, reviews: int, size: int) -> None:
        self._reviews += reviews
        self._body_bytes += size
        self.metrics.reviews_under_way.set(self._reviews)

    def _not_taken(self, error: _NotTakenError) -> web.Response:
        self.metrics.errors.add(error.reason)
        headers = {"Retry-After": "1"} if error.status == 429 else {}
        return web.json_response({"error": str(error), "reason": error.reason}, status=error.status, headers=headers)

    def _malformed(self, error: ReviewError) -> web.Response:
        self.metrics.errors.add("malformed")
        if not error.uid:
            # A response without the request's uid is none to the API server, whatever it says.
            document = {"error": str(error), "reason": error.reason, "next_step": error.next_step}
            return web.json_response(document, status=400)
        return web.json_response(response_document(error.uid, self._answering.malformed(error)))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ending:
            return web.Response(text="ending\n", status=503)
        said = await finished_by(self._clock, self._clock.now() + _READY_WAIT, self._decider_state())
        problem = "whatever decides does not say whether it can" if said is None else said
        self.metrics.decider_ready.set(float(not problem))
        self._was_ready |= not problem
        # Once in use it stays in use: without any webhook the API server would refuse everything, where this one still
        # answers from the cache, lets in what the rules exempt, and says why not.
        if not self._was_ready:
            return web.Response(text=f"{problem}\n", status=503)
        return web.Response(text=f"ok, but: {problem}\n" if problem else "ok\n")

    async def _decider_state(self) -> str:
        try:
            return await self._decider.ready()
        except Exception as error:  # noqa: BLE001  # whatever it is, it cannot decide
            return f"whatever decides failed: {type(error).__name__}"

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text().encode(), headers={"Content-Type": CONTENT_TYPE})

    def _note_certificate(self) -> None:
        self.metrics.certificate_not_after.set(self._tls.leaf.not_valid_after_utc.timestamp())

    async def _watch_files(self) -> None:
        while True:
            await self._clock.until(self._clock.now() + _REFRESH)
            await self.refresh_tls()


async def _read(request: web.Request, most: int) -> bytes:
    data = bytearray()
    async for piece in request.content.iter_any():
        data += piece
        if len(data) > most:
            raise _NotTakenError(413, "too_large", f"the body has more than {most} bytes")
    return bytes(data)


async def serve(
    settings: WebhookSettings, make_decider: DeciderFactory, stop: asyncio.Event, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Serve until told to stop.

    Args:
        settings: of it all.
        make_decider: called on the event loop.
        stop: when to end.
        tell: is given the addresses that are listened on.

    Raises:
        ConfigurationError: files of TLS cannot be used, or an address cannot be listened on.
    """
    tls = await asyncio.to_thread(ReloadedTls, settings.tls)
    webhook = Webhook(settings, make_decider(settings), tls)
    try:
        await webhook.start()
        tell({"serving": {"webhook": webhook.address, "metrics": webhook.metrics_address}})
        await stop.wait()
        await webhook.drain()
    finally:
        await webhook.close()
