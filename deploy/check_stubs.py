"""Fail where the committed stubs are not what the contract generates."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"


def main() -> int:
    """Generate into a temporary folder and compare file by file."""
    protos = sorted(PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as out:
        kinds = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), *kinds, "--mypy_opt=quiet"]
        command += ["--mypy_grpc_opt=quiet", *map(str, protos)]
        subprocess.run(command, check=True)
        fresh = {path.relative_to(out) for path in Path(out).rglob("*_pb2*")}
        committed = {path.relative_to(PROTO) for path in PROTO.rglob("*_pb2*") if "__pycache__" not in path.parts}
        stale = {path for path in fresh & committed if not filecmp.cmp(Path(out) / path, PROTO / path, shallow=False)}
        wrong = sorted(map(str, (fresh ^ committed) | stale))
    if wrong:
        print(f"stubs are not current: {', '.join(wrong)}; run: make proto", file=sys.stderr)
        return 1
    print(f"{len(fresh)} stubs are current")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
