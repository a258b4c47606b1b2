"""A server span and a client span through py_zipkin.

Usage: zipkin_spans.py ENCODING HOST:PORT, where ENCODING is V1_JSON, V2_JSON or V2_PROTO3. Says on standard output what it sent.
"""
import json
import os
import sys

from py_zipkin import Encoding, Kind
from py_zipkin.request_helpers import create_http_headers
from py_zipkin.transport import SimpleHTTPTransport
from py_zipkin.zipkin import zipkin_client_span, zipkin_span

encoding, endpoint = sys.argv[1:]
host, port = endpoint.split(":")


def say(name):
    headers = create_http_headers()
    fact = {"name": name, "trace": headers["X-B3-TraceId"], "span": headers["X-B3-SpanId"]}
    print(json.dumps(fact), flush=True)


print(json.dumps({"pid": os.getpid()}), flush=True)
with zipkin_span(
    service_name="python-shop",
    span_name="GET /basket",
    transport_handler=SimpleHTTPTransport(host, int(port)),
    sample_rate=100.0,
    encoding=getattr(Encoding, encoding),
    kind=Kind.SERVER,
    host="10.0.0.7",
    port=8080,
    use_128bit_trace_id=True,
    binary_annotations={"http.path": "/basket", "größe": "7"},
) as server:
    say("get /basket")
    server.add_annotation("checkpoint")
    with zipkin_client_span(service_name="python-shop", span_name="select") as client:
        say("select")
        client.add_sa_binary_annotation(port=5432, service_name="db", host="10.0.0.9")
        client.update_binary_annotations({"error": "no such row"})
