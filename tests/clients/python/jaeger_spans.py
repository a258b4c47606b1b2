"""Spans through Jaeger's own client, over UDP in thrift's compact protocol.

Usage: jaeger_spans.py HOST:PORT. Says on standard output what it sent.
"""
import json
import os
import sys
import time

import opentracing
from jaeger_client import Config

host, port = sys.argv[1].split(":")
agent = {"reporting_host": host, "reporting_port": int(port)}
settings = {
    "sampler": {"type": "const", "param": 1},
    "local_agent": agent,
    "generate_128bit_trace_id": True,
    "tags": {"team": "blue"},
}
tracer = Config(config=settings, service_name="python-shop", validate=True).initialize_tracer()


def say(span, name):
    fact = {"name": name, "trace": f"{span.trace_id:032x}", "span": f"{span.span_id:016x}"}
    # Times are floating point, which the client cuts to microseconds: the start, and the difference.
    start, took = int(span.start_time * 1e6), int((span.end_time - span.start_time) * 1e6)
    fact["start"], fact["end"] = str(start * 1000), str((start + took) * 1000)
    print(json.dumps(fact), flush=True)


print(json.dumps({"pid": os.getpid()}), flush=True)
server = tracer.start_span("get /basket", tags={"span.kind": "server"})
server.set_tag("http.status_code", 503)
server.set_tag("ratio", 0.25)
server.set_tag("cached", False)
server.set_tag("größe", "7")
server.set_tag("error", True)
server.log_kv({"event": "checkpoint", "step": 1})
client = tracer.start_span("select", child_of=server)
client.set_tag("span.kind", "client")
client.finish()
later = tracer.start_span("audit", references=[opentracing.follows_from(server.context)])
later.finish()
server.finish()
for span, name in [(server, "get /basket"), (client, "select"), (later, "audit")]:
    say(span, name)
# The reporter sends on a thread of its own, each second and once more when it is closed.
closed = tracer.close()
for _ in range(100):
    if closed.done():
        break
    time.sleep(0.1)
time.sleep(1)
