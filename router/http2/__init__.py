"""HTTP/2 as far as a gRPC server needs it. Bytes in, bytes out: knows neither sockets nor gRPC."""
