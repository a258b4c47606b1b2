"""A program with metrics of every kind, scraped at HOST:PORT; a line on stdin is a command.

    gone    takes one series away
"""

import json
import os
import sys

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, start_http_server

host, port = sys.argv[1].rsplit(":", 1)
registry = CollectorRegistry()

orders = Counter("orders", "Orders, \\ and \n lines.", ["shop", "kind"], registry=registry)
orders.labels('größe "x" \\ \n', "a").inc(7, exemplar={"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"})
orders.labels("", "b").inc(2.5)
Gauge("temperature", "Of the room.", unit="celsius", registry=registry).set(-3.5)
queues = Gauge("queue_items", "Waiting.", ["queue"], registry=registry)
queues.labels("in").set(float("inf"))
queues.labels("out").set(1e-300)
latency = Histogram("latency_seconds", "Of answers.", ["path"], buckets=(0.1, 0.5, 2.5), registry=registry)
for value in (0.05, 0.4, 0.45, 2.0, 30.0):
    latency.labels("/basket").observe(value, exemplar={"trace_id": "0af7651916cd43dd8448eb211c80319c"})
sizes = Summary("size_bytes", "Of bodies.", registry=registry)
sizes.observe(512)
sizes.observe(1024)
Info("shop", "What it is.", registry=registry).info({"version": "1.2.3", "branch": "main"})
Enum("door", "Open or not.", states=["open", "closed"], registry=registry).state("closed")

start_http_server(int(port), addr=host, registry=registry)
print(json.dumps({"pid": os.getpid()}), flush=True)
for line in sys.stdin:
    command = line.strip()
    if command == "gone":
        queues.remove("out")
    print(json.dumps({"done": command}), flush=True)
