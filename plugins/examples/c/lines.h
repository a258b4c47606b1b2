// One line for each span: trace id, span id, service, name, nanoseconds, with tabs between.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bytes of somebody else's, or a text that grows.
typedef struct {
    uint8_t *ptr;
    size_t len, room;
} text;

// Writes the lines of an OTLP ExportTraceServiceRequest; false where it is none.
bool write_lines(uint8_t *batch, size_t len, text *lines);
