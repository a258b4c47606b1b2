// Prometheus' own Go: its client and handler for remote write 2.0, and its parsers.
//
// Usage:
//
//	client send URL      writes one request of every kind of series; says each series, then what the server says it has written
//	client receive ADDR  serves /api/v1/write; says each series that it gets
//	client parse         reads {"name", "type", "body"} lines; says what Prometheus makes of each body (base64)
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"google.golang.org/protobuf/proto"
)

func main() {
	switch os.Args[1] {
	case "send":
		send(os.Args[2])
	case "receive":
		receive(os.Args[2])
	case "parse":
		parse()
	default:
		log.Fatalf("no such command: %s", os.Args[1])
	}
}

func fact(value any) {
	line, err := json.Marshal(value)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// builder puts a request together.
type builder struct {
	symbols writev2.SymbolsTable
	series  []*writev2.TimeSeries
	now     int64
}

// labels are given as name, value, name, value …
func (b *builder) add(kind writev2.Metadata_MetricType, help, unit string, labels ...string) *writev2.TimeSeries {
	one := &writev2.TimeSeries{
		LabelsRefs: b.refs(append(labels, "instance", "h:1", "job", "app")),
		Metadata:   &writev2.Metadata{Type: kind, HelpRef: b.symbols.Symbolize(help), UnitRef: b.symbols.Symbolize(unit)},
	}
	b.series = append(b.series, one)
	return one
}

func (b *builder) refs(pairs []string) []uint32 {
	names := map[string]string{}
	for at := 0; at < len(pairs); at += 2 {
		names[pairs[at]] = pairs[at+1]
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var refs []uint32
	for _, name := range sorted {
		refs = append(refs, b.symbols.Symbolize(name), b.symbols.Symbolize(names[name]))
	}
	return refs
}

func (b *builder) sample(one *writev2.TimeSeries, value float64) *writev2.TimeSeries {
	one.Samples = append(one.Samples, &writev2.Sample{Value: value, Timestamp: b.now})
	return one
}

func request() *writev2.Request {
	b := builder{symbols: writev2.NewSymbolTable(), now: time.Now().UnixMilli()}
	counter, gauge := writev2.Metadata_METRIC_TYPE_COUNTER, writev2.Metadata_METRIC_TYPE_GAUGE
	histogram := writev2.Metadata_METRIC_TYPE_HISTOGRAM
	orders := b.sample(b.add(counter, "Orders.", "", "__name__", "orders_total", "shop", "größe \"x\""), 7)
	orders.Exemplars = []*writev2.Exemplar{{
		LabelsRefs: b.refs([]string{"trace_id", "0af7651916cd43dd8448eb211c80319c"}), Value: 1, Timestamp: b.now,
	}}
	b.sample(b.add(gauge, "Of the room.", "celsius", "__name__", "temperature_celsius"), -3.5)
	b.sample(b.add(gauge, "Of the room.", "celsius", "__name__", "temperature_celsius", "room", "gone"), math.Float64frombits(0x7ff0000000000002))
	for _, bucket := range []struct {
		le    string
		count float64
	}{{"0.1", 1}, {"0.5", 3}, {"+Inf", 4}} {
		b.sample(b.add(histogram, "Of answers.", "seconds", "__name__", "latency_seconds_bucket", "le", bucket.le), bucket.count)
	}
	b.sample(b.add(histogram, "Of answers.", "seconds", "__name__", "latency_seconds_count"), 4)
	b.sample(b.add(histogram, "Of answers.", "seconds", "__name__", "latency_seconds_sum"), 2.75)
	native := b.add(histogram, "Of calls.", "seconds", "__name__", "rpc_seconds")
	native.Histograms = []*writev2.Histogram{{
		Count: &writev2.Histogram_CountInt{CountInt: 9}, Sum: 4.5, Schema: 3, ZeroThreshold: 1e-128,
		ZeroCount:      &writev2.Histogram_ZeroCountInt{ZeroCountInt: 1},
		PositiveSpans:  []*writev2.BucketSpan{{Offset: 2, Length: 2}, {Offset: 1, Length: 1}},
		PositiveDeltas: []int64{3, 1, -3},
		Timestamp:      b.now,
	}}
	return &writev2.Request{Symbols: b.symbols.Symbols(), Timeseries: b.series}
}

func send(url string) {
	message := request()
	describe(message)
	api, err := remote.NewAPI(url)
	check(err)
	stats, err := api.Write(context.Background(), remote.WriteV2MessageType, message)
	check(err)
	fact(map[string]any{"samples": stats.Samples, "histograms": stats.Histograms, "exemplars": stats.Exemplars})
}

type store struct{}

func (store) Store(r *http.Request, kind remote.WriteMessageType) (*remote.WriteResponse, error) {
	response := remote.NewWriteResponse()
	body, err := io.ReadAll(r.Body)
	if err == nil && kind != remote.WriteV2MessageType {
		err = fmt.Errorf("expected version 2, got %s", kind)
	}
	message := &writev2.Request{}
	if err == nil {
		err = proto.Unmarshal(body, message)
	}
	if err != nil {
		response.SetStatusCode(http.StatusBadRequest)
		return response, err
	}
	describe(message)
	var stats remote.WriteResponseStats
	for _, one := range message.Timeseries {
		stats.Samples += len(one.Samples)
		stats.Histograms += len(one.Histograms)
		stats.Exemplars += len(one.Exemplars)
	}
	response.Add(stats)
	return response, nil
}

func receive(address string) {
	listener, err := net.Listen("tcp", address)
	check(err)
	http.Handle("/api/v1/write", remote.NewWriteHandler(store{}, remote.MessageTypes{remote.WriteV2MessageType}))
	go func() { check(http.Serve(listener, nil)) }()
	fact(map[string]any{"pid": os.Getpid()})
	// Until the test closes its end.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// describe says each series of a request in one manner, whoever made it.
func describe(message *writev2.Request) {
	at := func(ref uint32) string { return message.Symbols[ref] }
	named := func(refs []uint32) map[string]string {
		found := map[string]string{}
		for at_ := 0; at_+1 < len(refs); at_ += 2 {
			found[at(refs[at_])] = at(refs[at_+1])
		}
		return found
	}
	for _, one := range message.Timeseries {
		said := map[string]any{"series": named(one.LabelsRefs)}
		if one.Metadata != nil {
			said["type"], said["help"], said["unit"] = one.Metadata.Type.String(), at(one.Metadata.HelpRef), at(one.Metadata.UnitRef)
		}
		for _, sample := range one.Samples {
			said["value"], said["time"] = number(sample.Value), sample.Timestamp
		}
		for _, exemplar := range one.Exemplars {
			said["exemplar"] = map[string]any{"labels": named(exemplar.LabelsRefs), "value": number(exemplar.Value), "time": exemplar.Timestamp}
		}
		for _, histogram := range one.Histograms {
			said["time"] = histogram.Timestamp
			said["histogram"] = map[string]any{
				"count": histogram.GetCountInt(), "sum": number(histogram.Sum), "schema": histogram.Schema,
				"zero": histogram.GetZeroCountInt(), "threshold": number(histogram.ZeroThreshold), "positive": buckets(histogram),
			}
		}
		fact(said)
	}
}

// buckets are the counts by index, however they are spread over spans.
func buckets(histogram *writev2.Histogram) map[string]int64 {
	found, index, count, delta := map[string]int64{}, int32(0), int64(0), 0
	for _, span := range histogram.PositiveSpans {
		index += span.Offset
		for range span.Length {
			count += histogram.PositiveDeltas[delta]
			delta++
			if count != 0 {
				found[strconv.Itoa(int(index))] = count
			}
			index++
		}
	}
	return found
}

func number(value float64) string {
	if math.Float64bits(value) == 0x7ff0000000000002 {
		return "stale"
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}

type text struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Body []byte `json:"body"`
}

func parse() {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		check(err)
		var one text
		check(json.Unmarshal(line, &one))
		samples, err := samples(one)
		said := map[string]any{"name": one.Name, "samples": samples, "error": ""}
		if err != nil {
			said["samples"], said["error"] = nil, err.Error()
		}
		fact(said)
	}
}

// sample is one of a text.
type sample struct {
	Labels map[string]string `json:"labels"`
	// The value's bits: NaN is not equal to itself.
	Bits string `json:"bits"`
	// Milliseconds.
	At *int64 `json:"at"`
}

// samples are all of a text.
func samples(one text) ([]sample, error) {
	parser, err := textparse.New(one.Body, one.Type, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	found := []sample{}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, at, value := parser.Series()
		var all labels.Labels
		parser.Labels(&all)
		// What the scraper refuses after the parser.
		if name, is := all.HasDuplicateLabelNames(); is {
			return nil, fmt.Errorf("label name %q is not unique", name)
		}
		if at != nil {
			copied := *at
			at = &copied
		}
		found = append(found, sample{Labels: all.Map(), Bits: strconv.FormatUint(math.Float64bits(value), 16), At: at})
	}
}
