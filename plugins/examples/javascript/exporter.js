// An exporter in JavaScript: posts one line of text for each span.

import http from "weir:plugin/http-client@1.0.0";

// What an operator writes under `settings:`. The host checks it first; `x-weir: egress` lets the plugin reach the URL
// that is written there.
const schema = {
  type: "object",
  additionalProperties: false,
  required: ["endpoint"],
  properties: { endpoint: { type: "string", pattern: '^https?://[^"\\s\\\\]+$', "x-weir": "egress" } },
};

// Each instance is configured once, before its first push.
let endpoint;

export const plugin = {
  describe: () => ({
    name: "spans-javascript",
    version: "1.0.0",
    description: "Posts one line of text for each span",
    signals: ["traces"],
    encoding: "json",
    settingsSchema: JSON.stringify(schema),
    extra: [],
  }),

  // What a schema can't say is checked here; the operator reads it with the line of the setting.
  configure(settings) {
    ({ endpoint } = JSON.parse(settings));
    if (endpoint.includes("#")) {
      throw [{ at: "/endpoint", message: "what follows a # is never sent; leave it out" }];
    }
  },
};

export const exporter = {
  push(batch, _delivery) {
    let body;
    try {
      body = encode(lines(JSON.parse(decode(batch.body))));
    } catch (error) {
      // Out of memory is no fault of the batch: the host says which limit was hit, and sends the batch again.
      if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
      return { tag: "permanent", val: `not a batch of traces: ${error}` };
    }
    const headers = [["content-type", "text/plain; charset=utf-8"]];
    try {
      return outcome(http.send({ method: "POST", target: endpoint, headers, body }, null));
    } catch (error) {
      if (error.tag === "denied") return { tag: "stopped", val: error.val };
      return { tag: "retryable", val: { message: `no answer: ${error.val ?? error.tag ?? error}`, afterMs: null } };
    }
  },
};

// One line for each span: trace id, span id, service, name, nanoseconds, with tabs between.
function lines({ resourceSpans = [] }) {
  let lines = "";
  for (const { resource, scopeSpans = [] } of resourceSpans) {
    const attribute = resource?.attributes?.find(({ key }) => key === "service.name");
    const service = field(attribute?.value?.stringValue ?? "?");
    for (const { spans = [] } of scopeSpans) {
      for (const { traceId = "", spanId = "", name = "", startTimeUnixNano = 0, endTimeUnixNano = 0 } of spans) {
        const nanos = BigInt(endTimeUnixNano) - BigInt(startTimeUnixNano);
        lines += `${traceId}\t${spanId}\t${service}\t${field(name)}\t${nanos > 0n ? nanos : 0n}\n`;
      }
    }
  }
  return lines;
}

// A text that stays in its field and in its line.
const field = (text) => text.replace(/[\t\r\n]/g, " ");

// What the host is to do next follows from the status.
function outcome({ status, headers }) {
  const message = `the backend answers ${status}`;
  if (status >= 200 && status < 300) return { tag: "accepted" };
  if (status === 413) return { tag: "too-large" };
  if (status === 401 || status === 403) return { tag: "stopped", val: message };
  if (status !== 429 && status < 500) return { tag: "permanent", val: message };
  const seconds = headers.find(([name]) => name.toLowerCase() === "retry-after")?.[1];
  const afterMs = /^\d{1,6}$/.test(seconds) ? seconds * 1000 : null;
  return { tag: "retryable", val: { message, afterMs } };
}

// QuickJS has no TextDecoder and no TextEncoder: `escape` turns bytes into %XX, and decodeURIComponent reads UTF-8.
function decode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode.apply(null, bytes.subarray(at, at + 8192));
  }
  return /[^\x00-\x7f]/.test(text) ? decodeURIComponent(escape(text)) : text;
}

function encode(text) {
  const bytes = unescape(encodeURIComponent(text));
  return Uint8Array.from({ length: bytes.length }, (_, at) => bytes.charCodeAt(at));
}
