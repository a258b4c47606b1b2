"""Reads {"name", "body"} lines (base64) and says what prometheus_client's OpenMetrics parser makes of each body."""

import base64
import json
import struct
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

for line in sys.stdin:
    given = json.loads(line)
    said = {"name": given["name"], "error": "", "samples": []}
    try:
        text = base64.b64decode(given["body"]).decode("utf-8")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                at = sample.timestamp
                said["samples"].append({
                    "labels": {"__name__": sample.name, **sample.labels},
                    "bits": struct.pack(">d", float(sample.value)).hex(),
                    "at": None if at is None else round(float(at) * 1000),
                })
    except Exception as error:
        said["error"], said["samples"] = f"{type(error).__name__}: {error}", None
    print(json.dumps(said), flush=True)
