// Series through Prometheus' own library for remote write 2.0, as a sender and as a receiver.
//
// Usage: client URL HOST:PORT. Listens at HOST:PORT, writes every kind of series to URL, waits until as many have come, and
// says on standard output what it sent and what came, a line of JSON for each series.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	"google.golang.org/protobuf/proto"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// series is what is compared: texts in the place of references.
type series struct {
	Labels     map[string]string
	Type       string
	Help, Unit string
	Samples    []string
	Histograms []string
	Exemplars  []string
}

func read(request *writev2.Request) []series {
	labels := func(refs []uint32) map[string]string {
		all := map[string]string{}
		for i := 0; i+1 < len(refs); i += 2 {
			all[request.Symbols[refs[i]]] = request.Symbols[refs[i+1]]
		}
		return all
	}
	var all []series
	for _, one := range request.Timeseries {
		seen := series{Labels: labels(one.LabelsRefs), Type: one.Metadata.GetType().String()}
		seen.Help = request.Symbols[one.Metadata.GetHelpRef()]
		seen.Unit = request.Symbols[one.Metadata.GetUnitRef()]
		for _, sample := range one.Samples {
			seen.Samples = append(seen.Samples, fmt.Sprint(sample.Value, "@", sample.Timestamp))
		}
		for _, h := range one.Histograms {
			positive := ""
			for _, span := range h.PositiveSpans {
				positive += fmt.Sprint(" ", span.Offset, "+", span.Length)
			}
			seen.Histograms = append(seen.Histograms, fmt.Sprint(h.GetCountInt(), " ", h.Sum, " ", h.Schema, " ", h.ZeroThreshold, " ",
				h.GetZeroCountInt(), positive, " ", h.PositiveDeltas, " @", h.Timestamp))
		}
		for _, exemplar := range one.Exemplars {
			text, err := json.Marshal(labels(exemplar.LabelsRefs))
			check(err)
			seen.Exemplars = append(seen.Exemplars, fmt.Sprint(exemplar.Value, "@", exemplar.Timestamp, string(text)))
		}
		all = append(all, seen)
	}
	return all
}

// store hands on what comes.
type store chan *writev2.Request

func (s store) Store(request *http.Request, _ remote.WriteMessageType) (*remote.WriteResponse, error) {
	response := remote.NewWriteResponse()
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return response, err
	}
	message := &writev2.Request{}
	if err := proto.Unmarshal(body, message); err != nil {
		response.SetStatusCode(http.StatusBadRequest)
		return response, err
	}
	var stats remote.WriteResponseStats
	for _, one := range message.Timeseries {
		stats.Samples += len(one.Samples)
		stats.Histograms += len(one.Histograms)
		stats.Exemplars += len(one.Exemplars)
	}
	response.Add(stats)
	s <- message
	return response, nil
}

func request() *writev2.Request {
	now := time.Now().UnixMilli()
	symbols := writev2.NewSymbolTable()
	add := func(kind writev2.Metadata_MetricType, value float64, labels ...string) *writev2.TimeSeries {
		labels = append(labels, "instance", "i", "job", "go")
		return &writev2.TimeSeries{
			LabelsRefs: symbols.SymbolizeLabels(labels, nil),
			Samples:    []*writev2.Sample{{Value: value, Timestamp: now}},
			Metadata:   &writev2.Metadata{Type: kind, HelpRef: symbols.Symbolize("Help.")},
		}
	}
	counter := add(writev2.Metadata_METRIC_TYPE_COUNTER, 5, "__name__", "c_total", "a", "größe")
	counter.Exemplars = []*writev2.Exemplar{{
		LabelsRefs: symbols.SymbolizeLabels([]string{"trace_id", "0af7651916cd43dd8448eb211c80319c"}, nil),
		Value:      1, Timestamp: now - 5,
	}}
	gauge := add(writev2.Metadata_METRIC_TYPE_GAUGE, -0.5, "__name__", "g_celsius")
	gauge.Metadata.UnitRef = symbols.Symbolize("celsius")
	native := add(writev2.Metadata_METRIC_TYPE_HISTOGRAM, 0, "__name__", "n")
	native.Samples = nil
	native.Histograms = []*writev2.Histogram{{
		Count: &writev2.Histogram_CountInt{CountInt: 13}, Sum: 3, Schema: 2, ZeroThreshold: 1e-128,
		ZeroCount:      &writev2.Histogram_ZeroCountInt{ZeroCountInt: 1},
		PositiveSpans:  []*writev2.BucketSpan{{Offset: -4, Length: 3}, {Offset: 9, Length: 1}},
		PositiveDeltas: []int64{2, -2, 1, 8}, Timestamp: now,
	}}
	const histogram, summary = writev2.Metadata_METRIC_TYPE_HISTOGRAM, writev2.Metadata_METRIC_TYPE_SUMMARY
	all := []*writev2.TimeSeries{
		counter, gauge, native,
		add(writev2.Metadata_METRIC_TYPE_UNSPECIFIED, 1, "__name__", "u"),
		add(writev2.Metadata_METRIC_TYPE_INFO, 1, "__name__", "build_info", "version", "1"),
		add(histogram, 1, "__name__", "h_bucket", "le", "0.5"), add(histogram, 3, "__name__", "h_bucket", "le", "+Inf"),
		add(histogram, 3, "__name__", "h_count"), add(histogram, 4.5, "__name__", "h_sum"),
		add(summary, 2, "__name__", "s", "quantile", "0.99"), add(summary, 2, "__name__", "s_count"), add(summary, 3, "__name__", "s_sum"),
	}
	return &writev2.Request{Symbols: symbols.Symbols(), Timeseries: all}
}

func say(what string, all []series) {
	for _, one := range all {
		line, err := json.Marshal(map[string]any{what: one})
		check(err)
		fmt.Println(string(line))
	}
}

func main() {
	came := make(store, 16)
	handler := remote.NewWriteHandler(came, remote.MessageTypes{remote.WriteV2MessageType})
	go func() { log.Fatal(http.ListenAndServe(os.Args[2], handler)) }()
	api, err := remote.NewAPI(os.Args[1])
	check(err)
	sent := request()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stats, err := api.Write(ctx, remote.WriteV2MessageType, sent)
	check(err)
	if stats.Samples != 11 || stats.Histograms != 1 || stats.Exemplars != 1 {
		log.Fatalf("written: %+v", stats)
	}
	say("sent", read(sent))
	for count := 0; count < len(sent.Timeseries); {
		select {
		case request := <-came:
			say("came", read(request))
			count += len(request.Timeseries)
		case <-ctx.Done():
			log.Fatal("not all of it came in time")
		}
	}
}
