// Spans and views through the OpenCensus agent exporter, on long streams.
//
// Usage: client HOST:PORT, then a command a line on standard input: "spans NAME", "views", "quit". Says on standard
// output what it sent.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"contrib.go.opencensus.io/exporter/ocagent"
	"go.opencensus.io/stats"
	"go.opencensus.io/stats/view"
	"go.opencensus.io/tag"
	"go.opencensus.io/trace"
	"go.opencensus.io/trace/tracestate"
)

var (
	size = stats.Int64("shop/size", "size of a basket", stats.UnitBytes)
	wait = stats.Float64("shop/time", "time to pay", stats.UnitMilliseconds)
	door = tag.MustNewKey("door")
)

// said writes what was sent; the exporter is handed the same data.
type said struct{}

func (said) ExportSpan(span *trace.SpanData) {
	fact(map[string]any{
		"name": span.Name, "trace": span.TraceID.String(), "span": span.SpanID.String(),
		"start": span.StartTime.UTC().Format(time.RFC3339Nano), "end": span.EndTime.UTC().Format(time.RFC3339Nano),
	})
}

func fact(value map[string]any) {
	line, err := json.Marshal(value)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	fact(map[string]any{"pid": os.Getpid()})
	exporter, err := ocagent.NewExporter(
		ocagent.WithInsecure(),
		ocagent.WithAddress(os.Args[1]),
		ocagent.WithServiceName("go-shop"),
		ocagent.WithReconnectionPeriod(200*time.Millisecond),
	)
	check(err)
	trace.RegisterExporter(exporter)
	trace.RegisterExporter(said{})
	// The exporter's own calls make spans too; only those below are sampled.
	trace.ApplyConfig(trace.Config{DefaultSampler: trace.NeverSample()})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		switch word, name, _ := strings.Cut(commands.Text(), " "); word {
		case "spans":
			spans(name)
			exporter.Flush()
			fact(map[string]any{"done": commands.Text()})
		case "views":
			views(exporter)
			exporter.Flush()
			fact(map[string]any{"done": commands.Text()})
		case "quit":
			return
		default:
			log.Fatalf("no such command: %q", commands.Text())
		}
	}
}

func spans(name string) {
	state, err := tracestate.New(nil, tracestate.Entry{Key: "vendor", Value: "value"})
	check(err)
	remote := trace.SpanContext{
		TraceID:      trace.TraceID{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c},
		SpanID:       trace.SpanID{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31},
		TraceOptions: 1,
		Tracestate:   state,
	}
	ctx, parent := trace.StartSpanWithRemoteParent(
		context.Background(), name, remote, trace.WithSampler(trace.AlwaysSample()), trace.WithSpanKind(trace.SpanKindServer),
	)
	parent.AddAttributes(
		trace.Int64Attribute("http.status_code", 503), trace.StringAttribute("http.path", "/basket"),
		trace.BoolAttribute("cached", false),
		// The exporter has no case for it and leaves it out.
		trace.Float64Attribute("ratio", 0.25),
	)
	parent.Annotate([]trace.Attribute{trace.Int64Attribute("step", 1)}, "checkpoint")
	parent.AddMessageSendEvent(7, 2000, 1000)
	parent.AddLink(trace.Link{
		TraceID: trace.TraceID{0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22},
		SpanID:  trace.SpanID{0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33},
		Type:    trace.LinkTypeParent,
	})
	parent.SetStatus(trace.Status{Code: trace.StatusCodeUnavailable, Message: "backend down"})
	_, child := trace.StartSpan(ctx, name+" child größe", trace.WithSpanKind(trace.SpanKindClient))
	child.End()
	_, root := trace.StartSpan(context.Background(), name+" root", trace.WithSampler(trace.AlwaysSample()))
	root.End()
	parent.End()
}

func views(exporter view.Exporter) {
	all := []*view.View{
		{Name: "shop/count", Description: "baskets", Measure: size, TagKeys: []tag.Key{door}, Aggregation: view.Count()},
		{Name: "shop/sum", Description: "bytes", Measure: size, TagKeys: []tag.Key{door}, Aggregation: view.Sum()},
		{Name: "shop/last", Description: "last time", Measure: wait, Aggregation: view.LastValue()},
		{Name: "shop/times", Description: "times", Measure: wait, TagKeys: []tag.Key{door}, Aggregation: view.Distribution(1, 10, 100)},
	}
	check(view.Register(all...))
	ctx, err := tag.New(context.Background(), tag.Upsert(door, "front"))
	check(err)
	for _, each := range []struct {
		bytes  int64
		millis float64
	}{{10, 0.5}, {20, 5}, {30, 500}} {
		stats.Record(ctx, size.M(each.bytes), wait.M(each.millis))
	}
	for _, each := range all {
		rows, err := view.RetrieveData(each.Name)
		check(err)
		exporter.ExportView(&view.Data{View: each, Start: start, End: time.Now(), Rows: rows})
	}
}

var start = time.Now()
