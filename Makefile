# Two commands for a newcomer: `make quickstart` and `make test`. The rest is for those who work on it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PROTOS := $(wildcard proto/sealkeeper/v1/*.proto)
STUBS := --python_out=proto --grpc_python_out=proto --mypy_out=proto --mypy_grpc_out=proto

.PHONY: help
help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/run: locks/run.txt pyproject.toml
	deploy/bootstrap run
	@touch $@

.venv/dev: locks/dev.txt pyproject.toml
	deploy/bootstrap dev
	@touch .venv/run $@

.PHONY: quickstart
quickstart: .venv/run ## Sign a real file end to end with an embedded gateway; leaves ./quickstart/
	$(PY) -m sealkeeper.server.quickstart --output quickstart

.PHONY: test
test: .venv/dev ## Run every test
	deploy/test-prerequisites
	$(PY) -m pytest -n 2 --dist loadgroup

.PHONY: matrix
matrix: .venv/dev ## Try every provider with every algorithm, and write what was proven into the docs
	deploy/test-prerequisites
	$(PY) -m pytest -n 2 --dist loadgroup tests/conformance --matrix

.PHONY: lint
lint: .venv/dev ## ruff, mypy --strict, import-linter, buf, current stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/buf lint
	$(PY) deploy/check_stubs.py

.PHONY: bench
bench: .venv/dev ## Print signs and verifications per second, latencies and start-up times
	$(PY) -m tests.bench

.PHONY: proto
proto: .venv/dev ## Generate the stubs from the contract
	$(PY) -m grpc_tools.protoc -I proto $(STUBS) --mypy_opt=quiet --mypy_grpc_opt=quiet $(PROTOS)

.PHONY: lock
lock: .venv/dev ## Pin the dependencies anew
	.venv/bin/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --extra server --extra pkcs11 --extra build pyproject.toml -o locks/run.txt
	.venv/bin/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --extra dev -c locks/run.txt pyproject.toml -o locks/dev.txt

.PHONY: wheel
wheel: .venv/run ## Build the wheel into ./dist/
	$(PY) -m build --wheel --no-isolation

.PHONY: clean
clean: ## Remove what was made
	rm -rf .venv dist quickstart build
