"""``make bench``: what a gateway does on this machine. Load comes from h2load (Debian: nghttp2-client).

The port is plaintext on loopback, because h2load shows no client certificate; only that for tokens has TLS. Every
signature is durable, logged, has a timestamp and an inclusion proof; what is measured is the whole way, gateway and its
key workers sharing the processors with h2load. What this machine does without Sealkeeper, empty gRPC calls and bare
signatures, comes first and last: virtual machines differ, from one another and from minute to minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from sealkeeper.client import Client, Connection, digest_content, message_content
from sealkeeper.server.quickstart import softhsm_token
from sealkeeper.v1 import signing_pb2
from sealkeeper.verify import Artifact, Policy, TrustRoot, verify
from tests.bench.gates import measure_gates
from tests.bench.identity import gateway_with_tokens, hang, measure_identity
from tests.e2e.running import P256, PARENT, Running

CONNECTIONS = (1, 8, 32, 128)
BATCH = 100
SERVICE = "sealkeeper.v1.SigningService"
CONTENT = digest_content("SHA2_256", sha256(b"artifact").digest())


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--provider", choices=["software", "softhsm"], default="software")
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing (Debian: apt-get install nghttp2-client)")
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} processors")
    print(f"provider {arguments.provider}, key {P256}, loads of {arguments.seconds} s")
    with TemporaryDirectory() as folder:
        measure_machine(Path(folder))
        measure_gateway(Path(folder), arguments.provider, arguments.seconds)
        measure_tokens(Path(folder), arguments.seconds)
        measure_machine(Path(folder))
    asyncio.run(measure_identity())
    measure_gates(arguments.seconds)
    measure_start_up()


def measure_machine(folder: Path) -> None:
    """What a gateway in Python could do at most: empty calls of grpc.aio, and P-256 signatures of one processor."""
    key, ecdsa = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    count, started = 5000, time.perf_counter()
    for _ in range(count):
        key.sign(bytes(32), ecdsa)
    signing = count / (time.perf_counter() - started)
    command = [sys.executable, "-c", "from tests.bench.__main__ import serve_nothing; serve_nothing()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        times, seconds = load(folder, address, "Sign", signing_pb2.SignRequest(content=CONTENT), 32, 3)
        server.stdin.close()
    calls = len(times) / seconds
    print(f"this machine: {calls:,.0f} empty calls/s at 32 connections, {signing:,.0f} bare signatures/s")


def serve_nothing() -> None:
    """Answer calls with their requests until standard input ends."""

    async def answer(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    async def serve() -> None:
        server = grpc.aio.server()
        methods = {"Sign": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(0)

    uvloop.run(serve())


def measure_gateway(folder: Path, provider: str, seconds: int) -> None:
    token = softhsm_token(folder) if provider == "softhsm" else None
    gateway = Running.make(folder / "gateway", token[0], **token[1]) if token else Running.make(folder / "gateway")
    with gateway.running(SEALKEEPER_GATEWAY__INSECURE="true"):
        address = gateway.addresses["grpc"]
        with Client(Connection(address, "acme", insecure=True)) as client:
            key = client.create_key(PARENT, "release", P256).key.name
            one = signing_pb2.SignRequest(key=key, content=CONTENT)
            batch = signing_pb2.SignBatchRequest(key=key, items=[CONTENT] * BATCH)
            load(folder, address, "Sign", one, 8, 1)
            print("\nconnections   signs/s    mean ms   p50 ms   p99 ms")
            for connections in CONNECTIONS:
                report(str(connections), 1, *load(folder, address, "Sign", one, connections, seconds))
            print(f"batches of {BATCH}")
            for connections in (1, 4, 8):
                report(str(connections), BATCH, *load(folder, address, "SignBatch", batch, connections, seconds))
            measure_verification(client, key)


def measure_tokens(folder: Path, seconds: int) -> None:
    """Callers with tokens, over TLS, by a token that is known: while its issuer is well, and while it hangs."""
    with gateway_with_tokens(folder) as (gateway, issuer, token, key):
        one, address = signing_pb2.SignRequest(key=key, content=CONTENT), gateway.addresses["tokens"]
        load(folder, address, "Sign", one, 8, 1, token)
        print("32 connections over TLS, with a token that is known")
        for name, begin in (("well", lambda _: None), ("hanging", hang)):
            begin(issuer)
            size = gateway.tree_size()
            times, taken = load(folder, address, "Sign", one, 32, seconds, token)
            assert gateway.tree_size() - size >= len(times)
            report(name, 1, times, taken)


def load(
    folder: Path, address: str, method: str, request: Any, connections: int, seconds: int, token: str = ""
) -> tuple[list[float], float]:
    """Seconds of each request, and of all; with a token over TLS."""
    data, log = folder / "request", folder / "log"
    message = request.SerializeToString()
    data.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    log.unlink(missing_ok=True)
    command = ["h2load", f"-c{connections}", "-m1", f"-D{seconds}", "-t1", f"--log-file={log}", f"-d{data}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += ["-H", f"authorization: Bearer {token}"] if token else []
    subprocess.run(
        [*command, f"{'https' if token else 'http'}://{address}/{SERVICE}/{method}"], check=True, capture_output=True
    )
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    assert all(row[1] == "200" for row in rows)
    return [int(row[2]) / 1e6 for row in rows], seconds


def report(name: str, signatures: int, times: list[float], seconds: float) -> None:
    times = sorted(times)
    mean = sum(times) / len(times)
    middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
    rate = len(times) * signatures / seconds
    print(f"{name:>11} {rate:>9,.0f} {mean * 1e3:>10.2f} {middle * 1e3:>8.2f} {late * 1e3:>8.2f}")


def measure_verification(client: Client, key: str) -> None:
    found = client.trust_root(PARENT)
    trust = TrustRoot.from_json(found.trusted_root, found.keys)
    print("verifications/s, one process")
    for certificate in (False, True):
        bundle = client.sign(key, message_content(b"artifact"), certificate=certificate).signature.bundle
        count, started = 1000, time.perf_counter()
        for _ in range(count):
            assert verify(bundle, Artifact.from_bytes(b"artifact"), trust, Policy(key=key)).verified
        rate = count / (time.perf_counter() - started)
        print(f"{'certificate' if certificate else 'key':>11} {rate:>9,.0f}")


def measure_start_up() -> None:
    print("start-up of the command line, ms, best of 5")
    for arguments in (["--version"], ["--help"], ["verify", "--help"]):
        times = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "sealkeeper.client.cli", *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        print(f"{' '.join(arguments):>20} {min(times) * 1e3:>6.0f}")


if __name__ == "__main__":
    main()
