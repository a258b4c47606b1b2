// Spans through Jaeger's own client, in thrift's binary protocol.
//
// Usage: node jaeger.js WAY HOST:PORT, where WAY is udp or http. Says on standard output what it sent.
"use strict";
const { initTracer } = require("jaeger-client");

const [way, address] = process.argv.slice(2);
const [agentHost, port] = address.split(":");
const reporters = {
  udp: { agentHost, agentPort: Number(port) },
  http: { collectorEndpoint: `http://${address}/api/traces` },
};
let failed = null;
const logger = {
  info() {},
  error(message) {
    failed = message;
  },
};
const tracer = initTracer(
  { serviceName: "node-shop", sampler: { type: "const", param: 1 }, reporter: { ...reporters[way], flushIntervalMs: 100 } },
  { logger, tags: { team: "blue" } },
);

const say = (fact) => console.log(JSON.stringify(fact));
say({ pid: process.pid });
const server = tracer.startSpan("get /basket", { tags: { "span.kind": "server" } });
server.setTag("http.status_code", 503);
server.setTag("ratio", 0.25);
server.setTag("cached", false);
server.setTag("größe", "7");
server.setTag("error", true);
server.log({ event: "checkpoint", step: 1 });
const client = tracer.startSpan("select", { childOf: server });
client.setTag("span.kind", "client");
client.finish();
server.finish();
for (const [span, name] of [[server, "get /basket"], [client, "select"]]) {
  const context = span.context();
  say({ name, trace: context.traceIdStr.padStart(32, "0"), span: context.spanIdStr.padStart(16, "0") });
}
tracer.close(() => {
  if (failed) {
    console.error(failed);
    process.exit(1);
  }
  process.exit(0);
});
