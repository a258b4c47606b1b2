// A root span and its child through the browser's exporter to an OpenCensus agent, as a page would.
//
// Usage: node opencensus_web.js URL ORIGIN, once it is bundled: the packages are made for bundlers. Says on standard
// output what it sent.
import "./page.js";
import { RootSpan, tracing, SpanKind, LinkType, MessageEventType, CanonicalCode } from "@opencensus/web-core";
import { OCAgentExporter } from "@opencensus/web-exporter-ocagent";

const exporter = new OCAgentExporter({ agentEndpoint: process.argv[2], serviceName: "web-shop", attributes: { release: "42" } });
const root = new RootSpan(tracing.tracer, {
  name: "load",
  spanContext: { traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331", options: 1, traceState: "vendor=value" },
  kind: SpanKind.SERVER,
});
root.start();
root.addAttribute("http.status_code", 503);
root.addAttribute("http.path", "/basket");
root.addAttribute("cached", false);
root.addAnnotation("checkpoint", { step: 1 }, Date.now());
root.addMessageEvent(MessageEventType.SENT, "7", Date.now(), 2000, 1000);
root.addLink("11111111111111112222222222222222", "3333333333333333", LinkType.PARENT_LINKED_SPAN, { why: "retry" });
root.setStatus(CanonicalCode.UNAVAILABLE, "backend down");
const child = root.startChildSpan({ name: "child größe", kind: SpanKind.CLIENT });
child.end();
root.end();
for (const span of [root, child]) console.log(JSON.stringify({ name: span.name, trace: span.traceId, span: span.id }));
exporter.publish([root]).then((status) => {
  console.log(JSON.stringify({ status }));
  process.exit(status === 200 ? 0 : 1);
});
