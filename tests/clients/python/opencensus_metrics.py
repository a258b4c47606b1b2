"""A count, a sum, a last value and a distribution through opencensus-ext-ocagent's stats exporter, on one long stream.

Usage: opencensus_metrics.py HOST:PORT; ends when its standard input does.
"""
import json
import os
import sys

from opencensus.ext.ocagent import stats_exporter
from opencensus.stats import aggregation, measure, stats, view
from opencensus.tags import tag_key, tag_map, tag_value

print(json.dumps({"pid": os.getpid()}), flush=True)
size = measure.MeasureInt("shop/size", "size of a basket", "By")
time = measure.MeasureFloat("shop/time", "time to pay", "ms")
door = tag_key.TagKey("door")
views = [
    view.View("shop/count", "baskets", [door], size, aggregation.CountAggregation()),
    view.View("shop/sum", "bytes", [door], size, aggregation.SumAggregation()),
    view.View("shop/last", "last time", [], time, aggregation.LastValueAggregation()),
    view.View("shop/times", "times", [door], time, aggregation.DistributionAggregation([1.0, 10.0, 100.0])),
]
for each in views:
    stats.stats.view_manager.register_view(each)
tags = tag_map.TagMap()
tags.insert(door, tag_value.TagValue("front"))
for bytes_, millis in [(10, 0.5), (20, 5.0), (30, 500.0)]:
    record = stats.stats.stats_recorder.new_measurement_map()
    record.measure_int_put(size, bytes_)
    record.measure_float_put(time, millis)
    record.measure_put_attachment("trace_id", "0af7651916cd43dd8448eb211c80319c")
    record.measure_put_attachment("span_id", "b7ad6b7169203331")
    record.measure_put_attachment("basket", f"b-{bytes_}")
    record.record(tags)
exporter = stats_exporter.new_stats_exporter(
    service_name="python-shop", hostname="host-of-python", endpoint=sys.argv[1], interval=3600
)
# What the exporter's thread does each interval, now.
exporter.export_metrics(stats.stats.get_metrics())
sys.stdin.read()
os._exit(0)
