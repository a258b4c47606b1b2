// A server span and a client span through zipkin-js.
//
// Usage: node zipkin.js VERSION URL, where VERSION is v1 or v2. Says on standard output what it sent.
"use strict";
const { Tracer, ExplicitContext, BatchRecorder, Annotation, jsonEncoder, InetAddress, option } = require("zipkin");
const { HttpLogger } = require("zipkin-transport-http");

const [version, url] = process.argv.slice(2);
console.log(JSON.stringify({ pid: process.pid }));
const encoder = { v1: jsonEncoder.JSON_V1, v2: jsonEncoder.JSON_V2 }[version];
const logger = new HttpLogger({ endpoint: url, jsonEncoder: encoder, httpInterval: 100 });
let failed = null;
logger.on("error", (error) => {
  failed = error;
});
const tracer = new Tracer({
  ctxImpl: new ExplicitContext(),
  recorder: new BatchRecorder({ logger }),
  localServiceName: "node-shop",
  defaultTags: {},
});

function say(name, id) {
  const parent = id.parentSpanId.getOrElse ? id.parentSpanId.getOrElse("") : id.parentSpanId;
  console.log(JSON.stringify({ name, trace: id.traceId.padStart(32, "0"), span: id.spanId, parent }));
}

const server = tracer.createRootId(option.None, false);
const client = tracer.letId(server, () => tracer.createChildId());
say("get /basket", server);
say("select", client);

tracer.setId(server);
tracer.recordServiceName("node-shop");
tracer.recordRpc("GET /basket");
tracer.recordAnnotation(new Annotation.LocalAddr({ host: new InetAddress("10.0.0.7"), port: 8080 }));
tracer.recordAnnotation(new Annotation.ServerRecv());
tracer.recordBinary("http.path", "/basket");
tracer.recordMessage("checkpoint");

tracer.setId(client);
tracer.recordServiceName("node-shop");
tracer.recordRpc("select");
tracer.recordAnnotation(new Annotation.ClientSend());
tracer.recordAnnotation(
  new Annotation.ServerAddr({ serviceName: "db", host: new InetAddress("10.0.0.9"), port: 5432 }),
);
tracer.recordBinary("error", "no such row");
tracer.recordAnnotation(new Annotation.ClientRecv());

tracer.setId(server);
tracer.recordAnnotation(new Annotation.ServerSend());

// The logger sends each 100 ms and tells of errors only.
const began = Date.now();
const timer = setInterval(() => {
  if (failed) {
    console.error(failed);
    process.exit(1);
  }
  if (logger.queue.length === 0 && Date.now() - began > 1000) {
    clearInterval(timer);
    process.exit(0);
  }
}, 50);
