// Spans, and where the way has them metrics and log records, through OpenTelemetry's exporters.
//
// Usage: node opentelemetry.js WAY ENDPOINT, where WAY is otlp-grpc, otlp-http-protobuf, otlp-http-json, zipkin, jaeger-udp or
// jaeger-http.
// Says on standard output what it sent.
"use strict";
const { context, trace, ROOT_CONTEXT, SpanKind, SpanStatusCode, TraceFlags, createTraceState } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const [way, endpoint] = process.argv.slice(2);
const resource = resourceFromAttributes({ "service.name": "node-shop", "service.instance.id": "n-1" });

const say = (fact) => console.log(JSON.stringify(fact));
const nanos = ([seconds, rest]) => String(BigInt(seconds) * 1000000000n + BigInt(rest));

function spanExporter() {
  switch (way) {
    case "otlp-grpc":
      return new (require("@opentelemetry/exporter-trace-otlp-grpc").OTLPTraceExporter)({ url: endpoint });
    case "otlp-http-protobuf":
      return new (require("@opentelemetry/exporter-trace-otlp-proto").OTLPTraceExporter)({ url: `${endpoint}/v1/traces` });
    case "otlp-http-json":
      return new (require("@opentelemetry/exporter-trace-otlp-http").OTLPTraceExporter)({ url: `${endpoint}/v1/traces` });
    case "zipkin":
      return new (require("@opentelemetry/exporter-zipkin").ZipkinExporter)({ url: `${endpoint}/api/v2/spans` });
    case "jaeger-udp": {
      const [host, port] = endpoint.split(":");
      return new (require("@opentelemetry/exporter-jaeger").JaegerExporter)({ host, port: Number(port) });
    }
    case "jaeger-http":
      return new (require("@opentelemetry/exporter-jaeger").JaegerExporter)({ endpoint: `http://${endpoint}/api/traces` });
    default:
      throw new Error(`no such way: ${way}`);
  }
}

function sayAnd(exporter) {
  const inner = exporter.export.bind(exporter);
  exporter.export = (spans, done) => {
    for (const span of spans) {
      const { traceId, spanId } = span.spanContext();
      say({ name: span.name, trace: traceId, span: spanId, start: nanos(span.startTime), end: nanos(span.endTime) });
    }
    inner(spans, (result) => {
      if (result.code !== 0) throw result.error ?? new Error("the exporter says that it failed");
      done(result);
    });
  };
  return exporter;
}

async function spans() {
  const provider = new BasicTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(sayAnd(spanExporter()))] });
  const tracer = provider.getTracer("shop.pay", "1.2.3");
  const remote = trace.setSpanContext(ROOT_CONTEXT, {
    traceId: "0af7651916cd43dd8448eb211c80319c",
    spanId: "b7ad6b7169203331",
    traceFlags: TraceFlags.SAMPLED,
    traceState: createTraceState("vendor=value"),
    isRemote: true,
  });
  const link = {
    context: { traceId: "11111111111111112222222222222222", spanId: "3333333333333333", traceFlags: TraceFlags.SAMPLED },
    attributes: { why: "retry" },
  };
  const parent = tracer.startSpan("parent", { kind: SpanKind.SERVER, links: [link] }, remote);
  parent.setAttributes({ "http.status_code": 503, "http.path": "/basket", cached: false, ratio: 0.25, list: ["a", "b"] });
  parent.addEvent("checkpoint", { step: 1 });
  parent.addEvent("plain");
  parent.setStatus({ code: SpanStatusCode.ERROR, message: "backend down" });
  const child = tracer.startSpan("child größe", { kind: SpanKind.CLIENT }, trace.setSpan(remote, parent));
  child.setAttribute("server.address", "db.example");
  child.setStatus({ code: SpanStatusCode.OK });
  child.end();
  tracer.startSpan("inner", { kind: SpanKind.INTERNAL }, trace.setSpan(remote, parent)).end();
  parent.end();
  await provider.forceFlush();
}

async function metrics() {
  const { MeterProvider, PeriodicExportingMetricReader } = require("@opentelemetry/sdk-metrics");
  const { OTLPMetricExporter } = require("@opentelemetry/exporter-metrics-otlp-http");
  const exporter = new OTLPMetricExporter({ url: `${endpoint}/v1/metrics` });
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3600000 });
  const provider = new MeterProvider({ resource, readers: [reader] });
  const meter = provider.getMeter("shop.stats", "4.5.6");
  meter.createCounter("shop.count", { description: "baskets", unit: "1" }).add(3, { door: "front" });
  const times = meter.createHistogram("shop.times", { unit: "ms", advice: { explicitBucketBoundaries: [1, 10, 100] } });
  for (const millis of [0.5, 5, 500]) times.record(millis, { door: "front" });
  await provider.forceFlush();
}

async function logs() {
  const { SeverityNumber } = require("@opentelemetry/api-logs");
  const { LoggerProvider, BatchLogRecordProcessor } = require("@opentelemetry/sdk-logs");
  const { OTLPLogExporter } = require("@opentelemetry/exporter-logs-otlp-http");
  const exporter = new OTLPLogExporter({ url: `${endpoint}/v1/logs` });
  const processor = new BatchLogRecordProcessor({ exporter });
  const provider = new LoggerProvider({ resource, processors: [processor] });
  const logger = provider.getLogger("shop.log", "7.8.9");
  logger.emit({
    severityNumber: SeverityNumber.WARN,
    severityText: "WARN",
    body: { text: "basket is full", items: 3 },
    attributes: { door: "front" },
    eventName: "basket.full",
  });
  await provider.forceFlush();
}

async function main() {
  say({ pid: process.pid });
  await spans();
  if (way === "otlp-http-json") {
    await metrics();
    await logs();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
