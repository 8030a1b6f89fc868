# What a stranger needs: Python >= 3.11 (PYTHON=/path/to/python3 chooses one), git and make. No root, no Docker.

VENV := .venv
STAMP := $(VENV)/.installed
PROTOS := proto/coupon.proto proto/node.proto proto/journal.proto

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos lint proto

help:
	@echo "make demo     50 coupons, 1,000 users, a real cluster of 3 nodes on this machine"
	@echo "make test     every test"
	@echo "make chaos    every chaos scenario once on each journal, some 25 minutes; ends with a table"
	@echo "make lint     ruff and mypy --strict"
	@echo "make install  $(VENV) with the pinned dependencies and the command $(VENV)/bin/seonchak"
	@echo "make proto    generate proto/*_pb2* again"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt ops/install.sh
	@sh ops/install.sh $(VENV)
	@touch $(STAMP)

demo: install
	@$(VENV)/bin/python -m ops.demo

test: install
	$(VENV)/bin/pytest -n 2 --dist worksteal

chaos: install
	$(VENV)/bin/python -m chaos all

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# google/rpc/status.proto comes with googleapis-common-protos. journal.proto has no service: its grpc file would be empty.
proto: install
	$(VENV)/bin/python -m grpc_tools.protoc -I . -I $(VENV)/lib/python3.*/site-packages --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)
	rm -f proto/journal_pb2_grpc.py
