"""A gRPC server that gives the answers it was told to, whatever the method, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from sealkeeper.server.status import status_of


class Gateway(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it has arguments in its stubs only
    """Answers every method, after it has refused with what is in ``errors``.

    Args:
        answers: by the method's name.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.errors: list[Exception] = []
        self.asked: list[tuple[str, bytes]] = []
        self.address = ""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        name = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append((name, request))
            if self.errors:
                code, text, trailers = status_of(self.errors.pop(0))
                context.set_trailing_metadata(trailers)
                context.abort(code, text)
            data: bytes = self.answers[name].SerializeToString()
            return data

        return grpc.unary_unary_rpc_method_handler(answer)

    def requests(self, kind: Any) -> list[Any]:
        """The requests that were messages of this kind, which the method is named after."""
        name = kind.DESCRIPTOR.name.removesuffix("Request")
        return [kind.FromString(data) for method, data in self.asked if method == name]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """On a port of loopback, which ``address`` says."""
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield
        finally:
            server.stop(0).wait()
