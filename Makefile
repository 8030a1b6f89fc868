proto:
	.venv/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. proto/coupon.proto proto/node.proto proto/journal.proto
.PHONY: proto
