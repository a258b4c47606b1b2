import io.opencensus.common.Duration;
import io.opencensus.exporter.metrics.ocagent.OcAgentMetricsExporter;
import io.opencensus.exporter.metrics.ocagent.OcAgentMetricsExporterConfiguration;
import io.opencensus.exporter.trace.ocagent.OcAgentTraceExporter;
import io.opencensus.exporter.trace.ocagent.OcAgentTraceExporterConfiguration;
import io.opencensus.metrics.LabelKey;
import io.opencensus.metrics.LabelValue;
import io.opencensus.metrics.LongCumulative;
import io.opencensus.metrics.MetricOptions;
import io.opencensus.metrics.Metrics;
import io.opencensus.stats.Aggregation.Distribution;
import io.opencensus.stats.BucketBoundaries;
import io.opencensus.stats.Measure.MeasureDouble;
import io.opencensus.stats.Stats;
import io.opencensus.stats.View;
import io.opencensus.tags.TagContext;
import io.opencensus.tags.TagKey;
import io.opencensus.tags.TagMetadata;
import io.opencensus.tags.TagValue;
import io.opencensus.tags.Tags;
import io.opencensus.trace.Annotation;
import io.opencensus.trace.AttributeValue;
import io.opencensus.trace.Link;
import io.opencensus.trace.MessageEvent;
import io.opencensus.trace.Span;
import io.opencensus.trace.SpanContext;
import io.opencensus.trace.SpanId;
import io.opencensus.trace.Status;
import io.opencensus.trace.TraceId;
import io.opencensus.trace.TraceOptions;
import io.opencensus.trace.Tracer;
import io.opencensus.trace.Tracestate;
import io.opencensus.trace.Tracing;
import io.opencensus.trace.samplers.Samplers;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * Spans and metrics through the OpenCensus agent exporters, on long streams.
 *
 * <p>Usage: Client HOST:PORT, then a command a line on standard input: "spans NAME", "metrics",
 * "quit". Says on standard output what it sent.
 */
public final class Client {
  private static final Tracer TRACER = Tracing.getTracer();

  public static void main(String[] arguments) throws Exception {
    System.out.println("{\"pid\":" + ProcessHandle.current().pid() + "}");
    OcAgentTraceExporter.createAndRegister(
        OcAgentTraceExporterConfiguration.builder()
            .setEndPoint(arguments[0])
            .setServiceName("java-shop")
            .setUseInsecure(true)
            .build());
    BufferedReader commands =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String command = commands.readLine(); command != null; command = commands.readLine()) {
      if (command.startsWith("spans ")) {
        spans(command.substring("spans ".length()));
      } else if (command.equals("metrics")) {
        metrics(arguments[0]);
      } else if (command.equals("quit")) {
        break;
      } else {
        throw new IllegalArgumentException("no such command: " + command);
      }
      System.out.println("{\"done\":\"" + command + "\"}");
    }
    // Threads of the exporters are no daemons.
    System.exit(0);
  }

  private static void spans(String name) {
    SpanContext remote =
        SpanContext.create(
            TraceId.fromLowerBase16("0af7651916cd43dd8448eb211c80319c"),
            SpanId.fromLowerBase16("b7ad6b7169203331"),
            TraceOptions.builder().setIsSampled(true).build(),
            Tracestate.builder().set("vendor", "value").build());
    Span parent =
        TRACER
            .spanBuilderWithRemoteParent(name, remote)
            .setSampler(Samplers.alwaysSample())
            .setSpanKind(Span.Kind.SERVER)
            .startSpan();
    parent.putAttribute("http.status_code", AttributeValue.longAttributeValue(503));
    parent.putAttribute("http.path", AttributeValue.stringAttributeValue("/basket"));
    parent.putAttribute("cached", AttributeValue.booleanAttributeValue(false));
    parent.putAttribute("ratio", AttributeValue.doubleAttributeValue(0.25));
    parent.addAnnotation(
        Annotation.fromDescriptionAndAttributes(
            "checkpoint", Map.of("step", AttributeValue.longAttributeValue(1))));
    parent.addMessageEvent(
        MessageEvent.builder(MessageEvent.Type.SENT, 7)
            .setUncompressedMessageSize(2000)
            .setCompressedMessageSize(1000)
            .build());
    SpanContext other =
        SpanContext.create(
            TraceId.fromLowerBase16("11111111111111112222222222222222"),
            SpanId.fromLowerBase16("3333333333333333"),
            TraceOptions.DEFAULT,
            Tracestate.builder().build());
    parent.addLink(
        Link.fromSpanContext(
            other,
            Link.Type.PARENT_LINKED_SPAN,
            Map.of("why", AttributeValue.stringAttributeValue("retry"))));
    parent.setStatus(Status.UNAVAILABLE.withDescription("backend down"));
    Span child =
        TRACER
            .spanBuilderWithExplicitParent(name + " child größe", parent)
            .setSpanKind(Span.Kind.CLIENT)
            .startSpan();
    child.end();
    parent.end();
    say(name + " child größe", child);
    say(name, parent);
  }

  private static void say(String name, Span span) {
    System.out.println(
        "{\"name\":\""
            + name
            + "\",\"trace\":\""
            + span.getContext().getTraceId().toLowerBase16()
            + "\",\"span\":\""
            + span.getContext().getSpanId().toLowerBase16()
            + "\"}");
  }

  private static void metrics(String endpoint) {
    LongCumulative count =
        Metrics.getMetricRegistry()
            .addLongCumulative(
                "shop/count",
                MetricOptions.builder()
                    .setDescription("baskets")
                    .setUnit("1")
                    .setLabelKeys(List.of(LabelKey.create("door", "which door")))
                    .build());
    count.getOrCreateTimeSeries(List.of(LabelValue.create("front"))).add(3);
    MeasureDouble time = MeasureDouble.create("shop/time", "time to pay", "ms");
    TagKey door = TagKey.create("door");
    Stats.getViewManager()
        .registerView(
            View.create(
                View.Name.create("shop/times"),
                "times",
                time,
                Distribution.create(BucketBoundaries.create(Arrays.asList(1.0, 10.0, 100.0))),
                List.of(door)));
    TagContext tags =
        Tags.getTagger()
            .emptyBuilder()
            .put(
                door,
                TagValue.create("front"),
                TagMetadata.create(TagMetadata.TagTtl.UNLIMITED_PROPAGATION))
            .build();
    for (double millis : new double[] {0.5, 5, 500}) {
      Stats.getStatsRecorder().newMeasureMap().put(time, millis).record(tags);
    }
    OcAgentMetricsExporter.createAndRegister(
        OcAgentMetricsExporterConfiguration.builder()
            .setEndPoint(endpoint)
            .setServiceName("java-shop")
            .setUseInsecure(true)
            .setExportInterval(Duration.fromMillis(500))
            .build());
  }
}
