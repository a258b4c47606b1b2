// An exporter in Go: posts one line of text for each span.
package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"spans-go/weir"
)

// What an operator writes under `settings:`. The host checks it first; `x-weir: egress` lets the plugin reach the URL
// that is written there.
const schema = `{
	"type": "object",
	"additionalProperties": false,
	"required": ["endpoint"],
	"properties": {"endpoint": {"type": "string", "pattern": "^https?://[^\"\\s\\\\]+$", "x-weir": "egress"}}
}`

type exporter struct {
	Endpoint string // each instance is configured once, before its first push
}

func init() { weir.Export(&exporter{}) }

func main() {} // never called: a plugin is a library

func (*exporter) Describe() weir.Descriptor {
	return weir.Descriptor{
		Name:           "spans-go",
		Version:        "1.0.0",
		Description:    "Posts one line of text for each span",
		Signals:        []weir.Signal{weir.Traces},
		Encoding:       weir.JSON,
		SettingsSchema: schema,
	}
}

// Configure checks what a schema can't say; the operator reads it with the line of the setting.
func (e *exporter) Configure(settings string) []weir.SettingsError {
	if err := json.Unmarshal([]byte(settings), e); err != nil {
		return []weir.SettingsError{{At: "", Message: err.Error()}}
	}
	if strings.Contains(e.Endpoint, "#") {
		return []weir.SettingsError{{At: "/endpoint", Message: "what follows a # is never sent; leave it out"}}
	}
	return nil
}

func (e *exporter) Push(batch weir.Batch, _ weir.Delivery) weir.Outcome {
	var traces traces
	if err := json.Unmarshal(batch.Body, &traces); err != nil {
		return weir.Permanent("not a batch of traces: " + err.Error())
	}
	response, err := weir.Send(weir.Request{
		Method:  "POST",
		Target:  e.Endpoint,
		Headers: []weir.Header{{Name: "content-type", Value: "text/plain; charset=utf-8"}},
		Body:    traces.lines(),
	})
	switch {
	case err == nil:
		return outcome(response)
	case err.Denied:
		return weir.Stopped(err.Message)
	default:
		return weir.Retryable("no answer: " + err.Message)
	}
}

// What the host is to do next follows from the status.
func outcome(response weir.Response) weir.Outcome {
	message := fmt.Sprintf("the backend answers %d", response.Status)
	switch status := response.Status; {
	case status >= 200 && status < 300:
		return weir.Accepted()
	case status == 413:
		return weir.TooLarge()
	case status == 401 || status == 403:
		return weir.Stopped(message)
	case status == 429 || status >= 500:
		if seconds, err := strconv.ParseUint(response.Header("retry-after"), 10, 20); err == nil {
			return weir.RetryableAfter(message, uint32(seconds)*1000)
		}
		return weir.Retryable(message)
	default:
		return weir.Permanent(message)
	}
}

// The fields of OTLP/JSON that a line needs; all others are skipped. Numbers of 64 bits are texts there.
type traces struct {
	ResourceSpans []struct {
		Resource struct {
			Attributes []struct {
				Key   string
				Value struct{ StringValue *string }
			}
		}
		ScopeSpans []struct {
			Spans []struct {
				TraceID, SpanID, Name string
				Start                 uint64 `json:"startTimeUnixNano,string"`
				End                   uint64 `json:"endTimeUnixNano,string"`
			}
		}
	}
}

// One line for each span: trace id, span id, service, name, nanoseconds, with tabs between.
func (t traces) lines() []byte {
	var lines []byte
	for _, group := range t.ResourceSpans {
		service := "?"
		for _, attribute := range group.Resource.Attributes {
			if attribute.Key == "service.name" {
				if text := attribute.Value.StringValue; text != nil {
					service = field.Replace(*text)
				}
				break
			}
		}
		for _, scope := range group.ScopeSpans {
			for _, span := range scope.Spans {
				nanos := span.End - min(span.Start, span.End)
				name := field.Replace(span.Name)
				lines = fmt.Appendf(lines, "%s\t%s\t%s\t%s\t%d\n", span.TraceID, span.SpanID, service, name, nanos)
			}
		}
	}
	return lines
}

// A text that stays in its field and in its line.
var field = strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
