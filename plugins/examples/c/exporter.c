// An exporter in C: posts one line of text for each span.

#include "bindings/exporter_plugin.h"
#include "lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// What an operator writes under `settings:`. The host checks it first; `x-weir: egress` lets the plugin reach the URL
// that is written there.
static const char SCHEMA[] =
    "{\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"endpoint\"], \"properties\":"
    " {\"endpoint\": {\"type\": \"string\", \"pattern\": \"^https?://[^\\\"\\\\s\\\\\\\\]+$\", \"x-weir\": \"egress\"}}}";

// Each instance is configured once, before its first push.
static char *endpoint;

// Everything that goes to the host as a result is freed by the bindings, so it lies on the heap.
void exports_weir_plugin_plugin_describe(exports_weir_plugin_plugin_descriptor_t *ret) {
    memset(ret, 0, sizeof *ret);
    exporter_plugin_string_dup(&ret->name, "spans-c");
    exporter_plugin_string_dup(&ret->version, "1.0.0");
    exporter_plugin_string_dup(&ret->description, "Posts one line of text for each span");
    exporter_plugin_string_dup(&ret->settings_schema, SCHEMA);
    ret->encoding = WEIR_PLUGIN_TELEMETRY_ENCODING_PROTOBUF;
    ret->signals.ptr = malloc(1);
    ret->signals.ptr[0] = WEIR_PLUGIN_TELEMETRY_SIGNAL_TRACES;
    ret->signals.len = 1;
}

// The schema lets through one key, and a value without quotes and backslashes: it needs no JSON parser. What a schema
// can't say is checked here; the operator reads it with the line of the setting.
bool exports_weir_plugin_plugin_configure(exporter_plugin_string_t *settings,
                                          exports_weir_plugin_plugin_list_settings_error_t *err) {
    endpoint = strndup((char *)settings->ptr, settings->len);
    for (int quote = 0; quote < 3; quote++) {
        endpoint = strchr(endpoint, '"') + 1; // {"endpoint":"http://…"}
    }
    *strchr(endpoint, '"') = 0;
    exporter_plugin_string_free(settings);
    if (strchr(endpoint, '#') == NULL) return true;
    err->ptr = malloc(sizeof *err->ptr);
    err->len = 1;
    exporter_plugin_string_dup(&err->ptr[0].at, "/endpoint");
    exporter_plugin_string_dup(&err->ptr[0].message, "what follows a # is never sent; leave it out");
    return false;
}

// `Retry-After` where it is a number of seconds.
static exporter_plugin_option_u32_t retry_after(const weir_plugin_http_types_headers_t *headers) {
    for (size_t at = 0; at < headers->len; at++) {
        exporter_plugin_string_t name = headers->ptr[at].f0, value = headers->ptr[at].f1;
        char text[8] = "", *end;
        if (name.len != 11 || strncasecmp((char *)name.ptr, "retry-after", 11) != 0) continue;
        if (value.len == 0 || value.len >= sizeof text - 1) break;
        memcpy(text, value.ptr, value.len);
        uint32_t seconds = strtoul(text, &end, 10);
        if (*end == 0) return (exporter_plugin_option_u32_t){true, seconds * 1000};
    }
    return (exporter_plugin_option_u32_t){false, 0};
}

// What the host is to do next follows from the status.
static void outcome(const weir_plugin_http_types_response_t *response, weir_plugin_outcomes_outcome_t *ret) {
    char message[32];
    snprintf(message, sizeof message, "the backend answers %d", response->status);
    int status = response->status;
    if (status >= 200 && status < 300) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_ACCEPTED;
    } else if (status == 413) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_TOO_LARGE;
    } else if (status == 401 || status == 403) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_STOPPED;
        exporter_plugin_string_dup(&ret->val.stopped, message);
    } else if (status == 429 || status >= 500) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_RETRYABLE;
        exporter_plugin_string_dup(&ret->val.retryable.message, message);
        ret->val.retryable.after_ms = retry_after(&response->headers);
    } else {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_PERMANENT;
        exporter_plugin_string_dup(&ret->val.permanent, message);
    }
}

static void no_answer(weir_plugin_http_client_error_t *error, weir_plugin_outcomes_outcome_t *ret) {
    if (error->tag == WEIR_PLUGIN_HTTP_CLIENT_ERROR_DENIED) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_STOPPED;
        ret->val.stopped = error->val.denied; // It is ours, and the bindings will free it.
        return;
    }
    static const char *const WORDS[] = {"denied", "transport", "timeout", "the answer is too large", "other"};
    ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_RETRYABLE;
    exporter_plugin_string_dup(&ret->val.retryable.message, WORDS[error->tag]);
    ret->val.retryable.after_ms.is_some = false;
    weir_plugin_http_client_error_free(error);
}

void exports_weir_plugin_exporter_push(exports_weir_plugin_exporter_batch_t *batch,
                                       exports_weir_plugin_exporter_delivery_t *delivery,
                                       exports_weir_plugin_exporter_outcome_t *ret) {
    text lines = {0};
    if (!write_lines(batch->body.ptr, batch->body.len, &lines)) {
        ret->tag = WEIR_PLUGIN_OUTCOMES_OUTCOME_PERMANENT;
        exporter_plugin_string_dup(&ret->val.permanent, "not a batch of traces");
    } else {
        exporter_plugin_tuple2_string_string_t header;
        exporter_plugin_string_set(&header.f0, "content-type");
        exporter_plugin_string_set(&header.f1, "text/plain; charset=utf-8");
        weir_plugin_http_client_request_t request = {.headers = {&header, 1}, .body = {lines.ptr, lines.len}};
        exporter_plugin_string_set(&request.method, "POST");
        exporter_plugin_string_set(&request.target, endpoint);
        weir_plugin_http_client_response_t response;
        weir_plugin_http_client_error_t error;
        if (weir_plugin_http_client_send(&request, NULL, &response, &error)) {
            outcome(&response, ret);
            weir_plugin_http_client_response_free(&response);
        } else {
            no_answer(&error, ret);
        }
    }
    free(lines.ptr);
    exports_weir_plugin_exporter_batch_free(batch);
    exports_weir_plugin_exporter_delivery_free(delivery);
}

// The bindings want an object file with the world's types; `wasm-tools component embed` adds them instead.
void __component_type_object_force_link_exporter_plugin(void) {}
