// Package weir is the world `exporter-plugin` of wit/plugin.wit for Go: its types, and below them how they cross the
// border (the canonical ABI of the component model). Copy it as it is.
package weir

import (
	"strings"
	"unsafe"
)

// Signal is a kind of telemetry.
type Signal uint8

// The signals.
const (
	Traces Signal = iota
	Metrics
	Logs
	Profiles
)

// Encoding is how batches are spelled.
type Encoding uint8

// The encodings.
const (
	Protobuf Encoding = iota
	JSON
)

// Descriptor is what a plugin says of itself.
type Descriptor struct {
	Name, Version, Description string
	Signals                    []Signal
	Encoding                   Encoding
	SettingsSchema             string
}

// SettingsError is a fault in the settings; At is a JSON pointer into them.
type SettingsError struct{ At, Message string }

// Batch is one OTLP Export…ServiceRequest. Body is valid until Push returns.
type Batch struct {
	Signal   Signal
	Encoding Encoding
	Body     []byte
}

// Delivery says which attempt with which batch this is.
type Delivery struct {
	ID             string
	Attempt, Items uint32
}

// Outcome is how a delivery went; make one with the functions below.
type Outcome struct {
	tag             uint8
	message         string
	rejected, after uint32
	hasAfter        bool
}

// Accepted: the backend has the batch.
func Accepted() Outcome { return Outcome{tag: 0} }

// Partial: it has it but for some items, which will not be sent again.
func Partial(rejected uint32, message string) Outcome {
	return Outcome{tag: 1, rejected: rejected, message: message}
}

// Retryable: worth sending again; the wait is left to the host.
func Retryable(message string) Outcome { return Outcome{tag: 2, message: message} }

// RetryableAfter is Retryable with the backend's own wish.
func RetryableAfter(message string, millis uint32) Outcome {
	return Outcome{tag: 2, message: message, after: millis, hasAfter: true}
}

// TooLarge: the host halves the batch and pushes both halves.
func TooLarge() Outcome { return Outcome{tag: 3} }

// Stopped: nothing will be taken until an operator acts.
func Stopped(message string) Outcome { return Outcome{tag: 4, message: message} }

// Permanent: the same bytes would fail in the same way.
func Permanent(message string) Outcome { return Outcome{tag: 5, message: message} }

// Exporter is what a plugin implements.
type Exporter interface {
	Describe() Descriptor
	Configure(settings string) []SettingsError
	Push(batch Batch, delivery Delivery) Outcome
}

// Header is one header of a request or a response.
type Header struct{ Name, Value string }

// Request is an HTTP request; Target is a full URL.
type Request struct {
	Method, Target string
	Headers        []Header
	Body           []byte
}

// Response is an HTTP response.
type Response struct {
	Status  int
	Headers []Header
	Body    []byte
}

// Header is the value of a header, whatever the case of its name, or "".
func (r Response) Header(name string) string {
	for _, header := range r.Headers {
		if strings.EqualFold(header.Name, name) {
			return header.Value
		}
	}
	return ""
}

// SendError is why there is no response.
type SendError struct {
	// Denied: the host was not granted.
	Denied  bool
	Message string
}

func (e *SendError) Error() string { return e.Message }

var exporter Exporter

// Export says who is called; call it from an init function.
func Export(e Exporter) { exporter = e }

// === the border ===
//
// The host sees memory of 32 bits, Go thinks in 64: what crosses is laid out by hand, in areas of 32-bit words.

// kept holds what was allocated for the border during a call: the collector must not free what only the host knows of.
var kept [][]uint64

func allocate(bytes uint32) unsafe.Pointer {
	area := make([]uint64, bytes/8+1)
	kept = append(kept, area)
	return unsafe.Pointer(&area[0])
}

// words is an area of so many 32-bit words.
func words(count int) []uint32 {
	return unsafe.Slice((*uint32)(allocate(uint32(4*count))), count)
}

func address(area []uint32) uint32 { return uint32(uintptr(unsafe.Pointer(&area[0]))) }

// put writes address and length of a copy of what a string or a list of bytes holds.
func put[T string | []byte](area []uint32, content T) {
	memory := allocate(uint32(len(content)))
	copy(unsafe.Slice((*byte)(memory), len(content)), content)
	area[0], area[1] = uint32(uintptr(memory)), uint32(len(content))
}

func bytesAt(memory unsafe.Pointer, length uint32) []byte {
	return unsafe.Slice((*byte)(memory), length)
}

func get(area []uint32) []byte {
	return bytesAt(unsafe.Pointer(uintptr(area[0])), area[1])
}

// begin forgets what the call before has allocated. The arguments of this one are still held by its caller.
func begin() (arguments [][]uint64) {
	arguments, kept = kept, nil
	return arguments
}

//go:wasmexport cabi_realloc
func cabiRealloc(old unsafe.Pointer, oldBytes, _, bytes uint32) unsafe.Pointer {
	memory := allocate(bytes)
	copy(bytesAt(memory, bytes), bytesAt(old, oldBytes))
	return memory
}

//go:wasmexport weir:plugin/plugin@1.0.0#describe
func describe() unsafe.Pointer {
	begin()
	said := exporter.Describe()
	signals := make([]byte, len(said.Signals))
	for at, signal := range said.Signals {
		signals[at] = byte(signal)
	}
	area := words(13)
	put(area[0:], said.Name)
	put(area[2:], said.Version)
	put(area[4:], said.Description)
	put(area[6:], signals)
	area[8] = uint32(said.Encoding)
	put(area[9:], said.SettingsSchema)
	return unsafe.Pointer(&area[0])
}

//go:wasmexport weir:plugin/plugin@1.0.0#configure
func configure(settings unsafe.Pointer, length uint32) unsafe.Pointer {
	text := string(bytesAt(settings, length))
	begin()
	faults := exporter.Configure(text)
	area := words(3)
	if len(faults) > 0 {
		list := words(4 * len(faults))
		for at, fault := range faults {
			put(list[4*at:], fault.At)
			put(list[4*at+2:], fault.Message)
		}
		area[0], area[1], area[2] = 1, address(list), uint32(len(faults))
	}
	return unsafe.Pointer(&area[0])
}

//go:wasmexport weir:plugin/exporter@1.0.0#push
func push(signal, encoding uint32, body unsafe.Pointer, bytes uint32, id unsafe.Pointer, idBytes, attempt, items uint32) unsafe.Pointer {
	batch := Batch{Signal(signal), Encoding(encoding), bytesAt(body, bytes)}
	delivery := Delivery{string(bytesAt(id, idBytes)), attempt, items}
	begin()
	outcome := exporter.Push(batch, delivery)
	area := words(5)
	area[0] = uint32(outcome.tag)
	switch outcome.tag {
	case 1:
		area[1] = outcome.rejected
		put(area[2:], outcome.message)
	case 2:
		put(area[1:], outcome.message)
		if outcome.hasAfter {
			area[3], area[4] = 1, outcome.after
		}
	case 4, 5:
		put(area[1:], outcome.message)
	}
	return unsafe.Pointer(&area[0])
}

//go:wasmimport weir:plugin/http-client@1.0.0 send
func send(method, methodBytes, target, targetBytes, headers, headersLength, body, bodyBytes, hasTimeout, timeout, answer uint32)

// Send sends through the host's client.
func Send(request Request) (Response, *SendError) {
	head := words(4)
	put(head[0:], request.Method)
	put(head[2:], request.Target)
	headers := words(4*len(request.Headers) + 1)
	for at, header := range request.Headers {
		put(headers[4*at:], header.Name)
		put(headers[4*at+2:], header.Value)
	}
	body, answer := words(2), words(6)
	put(body, request.Body)
	send(head[0], head[1], head[2], head[3], address(headers), uint32(len(request.Headers)), body[0], body[1], 0, 0, address(answer))
	if answer[0]&0xff == 0 {
		return response(answer[1:]), nil
	}
	switch tag := answer[1] & 0xff; tag {
	case 0:
		return Response{}, &SendError{Denied: true, Message: string(get(answer[2:]))}
	case 2:
		return Response{}, &SendError{Message: "timeout"}
	case 3:
		return Response{}, &SendError{Message: "the answer is too large"}
	default:
		return Response{}, &SendError{Message: string(get(answer[2:]))}
	}
}

func response(area []uint32) Response {
	response := Response{Status: int(area[0] & 0xffff), Body: get(area[3:])}
	list := unsafe.Slice((*uint32)(unsafe.Pointer(uintptr(area[1]))), 4*area[2])
	for ; len(list) > 0; list = list[4:] {
		response.Headers = append(response.Headers, Header{string(get(list)), string(get(list[2:]))})
	}
	return response
}
