"""The read-only HTTP front: public logs as C2SP tiles, and metrics on a port of their own.

A log is at ``/{log}/…`` (``/transparency/checkpoint``), and at the root of its origin's host name
(``https://log.{domain}/checkpoint``), which is where clients look that know only the trust root.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from sealkeeper.server.errors import ConfigurationError

_NUMBER = r"(?:x\d{3}/)*\d{3}(?:\.p/\d{1,3})?"
_PATH = re.compile(rf"checkpoint|tile/(?:\d{{1,2}}|entries)/{_NUMBER}")
_IMMUTABLE = "public, max-age=31536000, immutable"
_FRESH = "no-cache"


class HttpFront:
    """Serves over HTTP.

    Args:
        logs: folders of the public logs by name.
        origins: their names by host name.
    """

    def __init__(self, logs: Mapping[str, Path], origins: Mapping[str, str]) -> None:
        self._logs = logs
        self._origins = origins
        self._runners: list[web.AppRunner] = []

    async def serve_logs(self, address: str) -> str:
        """Listen for readers of the logs.

        Returns:
            The address, with the port that was taken where 0 was asked for.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        return await self._serve(address, "http.listen", "/{path:.*}", self._log_file)

    async def serve_metrics(self, address: str) -> str:
        """Listen for Prometheus; as ``serve_logs``."""
        return await self._serve(address, "telemetry.metrics_listen", "/metrics", _metrics)

    async def _serve(self, address: str, setting: str, path: str, handler: web.Handler) -> str:  # type: ignore[name-defined]
        application = web.Application()
        application.router.add_get(path, handler)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), reuse_port=False).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigurationError(
                f"{setting} = {address!r}: {error.strerror}", next_step="end what listens there, or set another port"
            ) from None
        self._runners.append(runner)
        return f"{host}:{runner.addresses[0][1]}"

    async def _log_file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        log = self._origins.get((request.host or "").partition(":")[0])
        if log is None:
            log, _, path = path.partition("/")
        directory = self._logs.get(log)
        if directory is None or not _PATH.fullmatch(path):
            raise web.HTTPNotFound
        file = directory / path
        if not await asyncio.to_thread(file.is_file):
            raise web.HTTPNotFound
        is_checkpoint = path == "checkpoint"
        return web.FileResponse(
            file,
            headers={
                "Cache-Control": _FRESH if is_checkpoint else _IMMUTABLE,
                "Content-Type": "text/plain; charset=utf-8" if is_checkpoint else "application/octet-stream",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def close(self) -> None:
        """Stop listening; answers under way are finished."""
        for runner in self._runners:
            await runner.cleanup()


async def _metrics(_: web.Request) -> web.Response:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    data = await asyncio.to_thread(generate_latest)
    return web.Response(body=data, headers={"Content-Type": CONTENT_TYPE_LATEST})
