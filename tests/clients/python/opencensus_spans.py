"""Two nested spans through opencensus-ext-ocagent. Says on standard output what it sent.

Usage: opencensus_spans.py HOST:PORT
"""
import datetime
import json
import os
import sys

from opencensus.common.transports.sync import SyncTransport
from opencensus.ext.ocagent.trace_exporter import TraceExporter
from opencensus.trace import attributes, link, time_event
from opencensus.trace.samplers import AlwaysOnSampler
from opencensus.trace.span import SpanKind
from opencensus.trace.span_context import SpanContext
from opencensus.trace.status import Status
from opencensus.trace.tracer import Tracer
from opencensus.trace.trace_options import TraceOptions
from opencensus.trace.tracestate import Tracestate


def say(span):
    said = {"name": span.name, "trace": span.context_tracer.trace_id, "span": span.span_id}
    said["start"], said["end"] = span.start_time, span.end_time
    print(json.dumps(said), flush=True)


print(json.dumps({"pid": os.getpid()}), flush=True)
state = Tracestate()
state.append("vendor", "value")
# A trace that another process began: its state travels on.
context = SpanContext(
    trace_id="0af7651916cd43dd8448eb211c80319c", trace_options=TraceOptions("1"), tracestate=state
)
exporter = TraceExporter(
    service_name="python-shop", host_name="host-of-python", endpoint=sys.argv[1], transport=SyncTransport
)
tracer = Tracer(exporter=exporter, sampler=AlwaysOnSampler(), span_context=context)
now = datetime.datetime.utcnow()
with tracer.span(name="parent") as parent:
    parent.span_kind = SpanKind.SERVER
    parent.add_attribute("http.status_code", 503)
    parent.add_attribute("http.path", "/basket")
    parent.add_attribute("cached", False)
    parent.add_attribute("ratio", 0.25)
    parent.add_annotation("checkpoint", step=1, place="größe")
    parent.add_message_event(
        time_event.MessageEvent(
            now, 7, type=time_event.Type.SENT, uncompressed_size_bytes=2000, compressed_size_bytes=1000
        )
    )
    parent.add_link(
        link.Link(
            "11111111111111112222222222222222",
            "3333333333333333",
            type=link.Type.PARENT_LINKED_SPAN,
            attributes=attributes.Attributes({"why": "retry"}),
        )
    )
    parent.set_status(Status(14, "backend down"))
    with tracer.span(name="child größe") as child:
        child.span_kind = SpanKind.CLIENT
        child.add_attribute("k", "v")
say(child)
say(parent)
