"""Spans, and where the way has them metrics and log records, through OpenTelemetry's exporters.

Usage: opentelemetry_sdk.py WAY ENDPOINT, where WAY is otlp-grpc, otlp-http, opencensus, zipkin-json, zipkin-protobuf,
jaeger-thrift or jaeger-grpc.
Says on standard output what it sent.
"""
import json
import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

way, endpoint = sys.argv[1:]
resource = Resource({"service.name": "python-shop", "service.instance.id": "p-1"})


def say(fact):
    print(json.dumps(fact), flush=True)


class Said(SpanProcessor):
    def on_end(self, span):
        context = span.get_span_context()
        said = {"name": span.name, "trace": f"{context.trace_id:032x}", "span": f"{context.span_id:016x}"}
        said["start"], said["end"] = str(span.start_time), str(span.end_time)
        say(said)


def span_exporter():
    if way == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=endpoint, insecure=True)
    if way == "otlp-http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=endpoint + "/v1/traces")
    if way == "opencensus":
        from opentelemetry.exporter.opencensus.trace_exporter import OpenCensusSpanExporter

        return OpenCensusSpanExporter(endpoint=endpoint, host_name="host-of-python")
    if way == "zipkin-json":
        from opentelemetry.exporter.zipkin.json import ZipkinExporter

        return ZipkinExporter(endpoint=endpoint + "/api/v2/spans")
    if way == "zipkin-protobuf":
        from opentelemetry.exporter.zipkin.proto.http import ZipkinExporter

        return ZipkinExporter(endpoint=endpoint + "/api/v2/spans")
    if way == "jaeger-thrift":
        from opentelemetry.exporter.jaeger.thrift import JaegerExporter

        host, port = endpoint.split(":")
        return JaegerExporter(agent_host_name=host, agent_port=int(port))
    if way == "jaeger-grpc":
        from opentelemetry.exporter.jaeger.proto.grpc import JaegerExporter

        return JaegerExporter(collector_endpoint=endpoint, insecure=True)
    raise SystemExit(f"no such way: {way}")


def spans():
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(Said())
    provider.add_span_processor(BatchSpanProcessor(span_exporter()))
    tracer = provider.get_tracer("shop.pay", "1.2.3")
    remote = SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
        is_remote=True,
        trace_flags=TraceFlags(1),
        trace_state=TraceState([("vendor", "value")]),
    )
    other = SpanContext(0x11111111111111112222222222222222, 0x3333333333333333, is_remote=True)
    parent = tracer.start_span(
        "parent",
        context=trace.set_span_in_context(NonRecordingSpan(remote)),
        kind=SpanKind.SERVER,
        links=[Link(other, {"why": "retry"})],
    )
    parent.set_attributes({"http.status_code": 503, "http.path": "/basket", "cached": False, "ratio": 0.25})
    parent.set_attribute("list", ["a", "b"])
    parent.add_event("checkpoint", {"step": 1})
    parent.add_event("plain")
    parent.set_status(Status(StatusCode.ERROR, "backend down"))
    inside = trace.set_span_in_context(parent)
    child = tracer.start_span("child größe", context=inside, kind=SpanKind.CLIENT)
    child.set_attribute("server.address", "db.example")
    child.set_status(Status(StatusCode.OK))
    child.end()
    tracer.start_span("inner", context=inside, kind=SpanKind.INTERNAL).end()
    parent.end()
    provider.shutdown()


def metrics():
    if way == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        exporter = OTLPMetricExporter(endpoint=endpoint, insecure=True)
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        exporter = OTLPMetricExporter(endpoint=endpoint + "/v1/metrics")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

    views = [
        View(instrument_name="shop.times", aggregation=ExplicitBucketHistogramAggregation([1, 10, 100])),
        View(instrument_name="shop.sizes", aggregation=ExponentialBucketHistogramAggregation()),
    ]
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3600000)
    provider = MeterProvider([reader], resource=resource, views=views)
    meter = provider.get_meter("shop.stats", "4.5.6")
    meter.create_counter("shop.count", unit="1", description="baskets").add(3, {"door": "front"})
    meter.create_up_down_counter("shop.waiting").add(-2)
    times = meter.create_histogram("shop.times", unit="ms")
    sizes = meter.create_histogram("shop.sizes", unit="By")
    for value in [0.5, 5, 500]:
        times.record(value, {"door": "front"})
        sizes.record(value)
    provider.shutdown()


def logs():
    if way == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        exporter = OTLPLogExporter(endpoint=endpoint, insecure=True)
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        exporter = OTLPLogExporter(endpoint=endpoint + "/v1/logs")
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    record = LogRecord(
        timestamp=1700000000123456789,
        observed_timestamp=1700000000123456790,
        severity_text="WARN",
        severity_number=SeverityNumber.WARN,
        body={"text": "basket is full", "items": 3},
        attributes={"door": "front"},
        event_name="basket.full",
    )
    provider.get_logger("shop.log", "7.8.9").emit(record)
    provider.shutdown()


say({"pid": os.getpid()})
spans()
if way.startswith("otlp"):
    metrics()
    logs()
