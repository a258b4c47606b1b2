// One line for each span, straight from the bytes of protobuf. The numbers of the fields stand in
// opentelemetry/proto/trace/v1/trace.proto.

#include "lines.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One field of a message: `value` of a number, `bytes` of what has a length.
typedef struct {
    uint64_t number, value;
    text bytes;
} field;

// Set once something does not parse; then no message has another field.
static bool broken;

static uint64_t varint(text *in) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && in->len > 0; shift += 7) {
        uint8_t byte = *in->ptr++;
        in->len--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
    broken = true;
    return 0;
}

// Takes the next field off a message; false at its end.
static bool next(text *in, field *field) {
    if (broken || in->len == 0) return false;
    uint64_t key = varint(in), len = 0;
    field->number = key >> 3;
    field->value = 0;
    switch (key & 7) {
    case 0: field->value = varint(in); break;
    case 1: len = 8; break;
    case 2: len = varint(in); break;
    case 5: len = 4; break;
    default: broken = true;
    }
    if (broken || len > in->len) return broken = true, false;
    field->bytes = (text){in->ptr, len, 0};
    in->ptr += len;
    in->len -= len;
    if ((key & 7) == 1) memcpy(&field->value, field->bytes.ptr, 8);
    return true;
}

// The first field of this number, empty where there is none.
static text find(text message, uint64_t number) {
    field field;
    while (next(&message, &field)) {
        if (field.number == number) return field.bytes;
    }
    return (text){0};
}

// Room for so many bytes more.
static uint8_t *grow(text *out, size_t more) {
    if (out->len + more > out->room) {
        out->room = 2 * (out->len + more);
        out->ptr = realloc(out->ptr, out->room);
        if (out->ptr == NULL) abort(); // The host says which limit was hit, and sends the batch again.
    }
    out->len += more;
    return out->ptr + out->len - more;
}

static void write_hex(text *out, text id) {
    uint8_t *at = grow(out, 2 * id.len + 1);
    for (size_t byte = 0; byte < id.len; byte++) {
        *at++ = "0123456789abcdef"[id.ptr[byte] >> 4];
        *at++ = "0123456789abcdef"[id.ptr[byte] & 15];
    }
    *at = '\t';
}

// A text that stays in its field and in its line.
static void write_field(text *out, text field) {
    uint8_t *at = grow(out, field.len + 1);
    for (size_t byte = 0; byte < field.len; byte++) {
        uint8_t c = field.ptr[byte];
        *at++ = c == '\t' || c == '\n' || c == '\r' ? ' ' : c;
    }
    *at = '\t';
}

static void write_span(text *out, text span, text service) {
    text trace_id = {0}, span_id = {0}, name = {0};
    uint64_t start = 0, end = 0;
    for (field field; next(&span, &field);) {
        switch (field.number) {
        case 1: trace_id = field.bytes; break;
        case 2: span_id = field.bytes; break;
        case 5: name = field.bytes; break;
        case 7: start = field.value; break;
        case 8: end = field.value; break;
        }
    }
    write_hex(out, trace_id);
    write_hex(out, span_id);
    write_field(out, service);
    write_field(out, name);
    char nanos[24];
    int digits = snprintf(nanos, sizeof nanos, "%" PRIu64 "\n", end > start ? end - start : 0);
    memcpy(grow(out, digits), nanos, digits);
}

// The attribute service.name of a Resource, where it is a text.
static text service_of(text resource) {
    for (field attribute; next(&resource, &attribute);) {
        text key = find(attribute.bytes, 1), value = find(attribute.bytes, 2);
        if (attribute.number != 1 || key.len != 12 || memcmp(key.ptr, "service.name", 12) != 0) continue;
        for (field kind; next(&value, &kind);) {
            if (kind.number == 1) return kind.bytes;
        }
        break;
    }
    return (text){(uint8_t *)"?", 1, 0};
}

bool write_lines(uint8_t *batch, size_t len, text *out) {
    broken = false;
    text request = {batch, len, 0};
    for (field group; next(&request, &group);) {
        if (group.number != 1) continue;
        text service = service_of(find(group.bytes, 1));
        for (field scope; next(&group.bytes, &scope);) {
            if (scope.number != 2) continue;
            for (field span; next(&scope.bytes, &span);) {
                if (span.number == 2) write_span(out, span.bytes, service);
            }
        }
    }
    return !broken;
}
