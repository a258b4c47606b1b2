"""An exporter in Python: posts one line of text for each span."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.plugin import Descriptor, SettingsError
from wit_world.imports import http_client
from wit_world.imports.http_types import Request
from wit_world.imports.outcomes import (
    Outcome_Accepted,
    Outcome_Permanent,
    Outcome_Retryable,
    Outcome_Stopped,
    Outcome_TooLarge,
    Retry,
)
from wit_world.imports.telemetry import Encoding, Signal

# What an operator writes under `settings:`. The host checks it first; `x-weir: egress` lets the plugin reach the URL
# that is written there.
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["endpoint"],
    "properties": {"endpoint": {"type": "string", "pattern": r'^https?://[^"\s\\]+$', "x-weir": "egress"}},
}

# Each instance is configured once, before its first push.
endpoint = ""


class WitWorld:
    """The world itself has nothing to implement, and must be there."""


class Plugin(exports.Plugin):
    def describe(self):
        return Descriptor(
            name="spans-python",
            version="1.0.0",
            description="Posts one line of text for each span",
            signals=[Signal.TRACES],
            encoding=Encoding.JSON,
            settings_schema=json.dumps(SCHEMA),
            extra=[],
        )

    def configure(self, settings):
        """What a schema can't say is checked here; the operator reads it with the line of the setting."""
        global endpoint
        endpoint = json.loads(settings)["endpoint"]
        if "#" in endpoint:
            raise Err([SettingsError("/endpoint", "what follows a # is never sent; leave it out")])


class Exporter(exports.Exporter):
    def push(self, batch, delivery):
        try:
            body = lines(json.loads(batch.body)).encode()
        except (KeyError, TypeError, ValueError) as error:
            return Outcome_Permanent(f"not a batch of traces: {error!r}")
        headers = [("content-type", "text/plain; charset=utf-8")]
        try:
            return outcome(http_client.send(Request("POST", endpoint, headers, body), None))
        except Err as error:
            if isinstance(error.value, http_client.Error_Denied):
                return Outcome_Stopped(error.value.value)
            return Outcome_Retryable(Retry(f"no answer: {error.value}", None))


def lines(traces):
    """One line for each span: trace id, span id, service, name, nanoseconds, with tabs between."""
    lines = []
    for group in traces.get("resourceSpans", []):
        attributes = group.get("resource", {}).get("attributes", [])
        services = (a["value"].get("stringValue", "?") for a in attributes if a.get("key") == "service.name")
        service = field(next(services, "?"))
        for scope in group.get("scopeSpans", []):
            for span in scope.get("spans", []):
                nanos = int(span.get("endTimeUnixNano", 0)) - int(span.get("startTimeUnixNano", 0))
                parts = (span["traceId"], span["spanId"], service, field(span.get("name", "")), str(max(nanos, 0)))
                lines.append("\t".join(parts) + "\n")
    return "".join(lines)


def field(text):
    """A text that stays in its field and in its line."""
    return text.translate({9: " ", 10: " ", 13: " "})


def outcome(response):
    """What the host is to do next follows from the status."""
    message = f"the backend answers {response.status}"
    match response.status:
        case status if 200 <= status < 300:
            return Outcome_Accepted()
        case 413:
            return Outcome_TooLarge()
        case 401 | 403:
            return Outcome_Stopped(message)
        case status if status == 429 or status >= 500:
            wishes = [value for name, value in response.headers if name.lower() == "retry-after"]
            seconds = wishes[0] if wishes else ""
            return Outcome_Retryable(Retry(message, int(seconds) * 1000 if seconds.isdecimal() else None))
        case _:
            return Outcome_Permanent(message)
