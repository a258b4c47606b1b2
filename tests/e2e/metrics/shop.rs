//! What is expected of the metrics that come by OTLP.

use expect_test::{Expect, expect};

/// What is written in version 1.0: no deltas, the exponential histogram as a native one.
pub(super) fn written() -> Expect {
    expect![[r#"
        shop_latency_seconds_bucket{instance="one",job="eu/shop",le="+Inf",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 6 @1700000060000
        shop_latency_seconds_bucket{instance="one",job="eu/shop",le="0.1",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1 @1700000060000
        shop_latency_seconds_bucket{instance="one",job="eu/shop",le="1",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 3 @1700000060000
        shop_latency_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 6 @1700000060000
        shop_latency_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 9.5 @1700000060000
        shop_patience_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 5 @1700000060000
        shop_patience_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 12.5 @1700000060000
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.5"} 2 @1700000060000
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.99"} 4 @1700000060000
        shop_requests_total{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 7 @1700000060000
        shop_sizes_bytes{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} native count 4 sum 5.5 schema 0 zero 1 positive [(1, 2)] [2, -1] negative [] [] @1700000060000
        shop_temperature_celsius{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 21.5 @1700000060000
        shop_waiting{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 3 @1700000060000
        target_info{host_name="h1",instance="one",job="eu/shop"} 1 @1700000060000
    "#]]
}

/// What the receiver made of version 2.0.
pub(super) fn back() -> Expect {
    expect![[r#"
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_requests_total ("", sum 2 true) {path="/items"} 7.0 @1700000060000000000
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_sizes_bytes ("By", exponential histogram 2) {path="/items"} count 4 sum Some(5.5) scale 0 zero 1 positive Some((0, [2, 1])) negative None @1700000060000000000
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_temperature_celsius ("Cel", gauge) {path="/items"} 21.5 @1700000060000000000
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_waiting ("", gauge) {path="/items"} 3.0 @1700000060000000000
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_latency_seconds ("s", histogram 2) {path="/items"} count 6 sum Some(9.5) bounds [0.1, 1.0] buckets [1, 2, 3] @1700000060000000000
        [service.name="eu/shop",service.instance.id="one",host_name="h1"] shop_patience_seconds ("s", summary) {path="/items"} count 5 sum 12.5 [(0.5, 2.0), (0.99, 4.0)] @1700000060000000000
    "#]]
}

/// The page as text.
pub(super) fn plain() -> Expect {
    expect![[r#"
        text/plain; version=0.0.4; charset=utf-8
        # HELP shop_latency_seconds what shop.latency is
        # TYPE shop_latency_seconds histogram
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="0.1"} 1
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="1"} 3
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="+Inf"} 6
        shop_latency_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 9.5
        shop_latency_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 6
        # HELP shop_patience_seconds what shop.patience is
        # TYPE shop_patience_seconds summary
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.5"} 2
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.99"} 4
        shop_patience_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 12.5
        shop_patience_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 5
        # HELP shop_requests_total what shop.requests is
        # TYPE shop_requests_total counter
        shop_requests_total{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 7
        # HELP shop_sent_bytes_total what shop.sent is
        # TYPE shop_sent_bytes_total counter
        shop_sent_bytes_total{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 150
        # HELP shop_sizes_bytes what shop.sizes is
        # TYPE shop_sizes_bytes histogram
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="0"} 1
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="2"} 3
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="4"} 4
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="+Inf"} 4
        shop_sizes_bytes_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 5.5
        shop_sizes_bytes_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 4
        # HELP shop_temperature_celsius what shop.temperature is
        # TYPE shop_temperature_celsius gauge
        shop_temperature_celsius{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 21.5
        # HELP shop_waiting what shop.waiting is
        # TYPE shop_waiting gauge
        shop_waiting{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 3
        # HELP target_info Target metadata
        # TYPE target_info gauge
        target_info{instance="one",job="eu/shop",host_name="h1"} 1
    "#]]
}

/// The page as OpenMetrics.
pub(super) fn open() -> Expect {
    expect![[r#"
        application/openmetrics-text; version=1.0.0; charset=utf-8
        # HELP shop_latency_seconds what shop.latency is
        # TYPE shop_latency_seconds histogram
        # UNIT shop_latency_seconds seconds
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="0.1"} 1
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="1.0"} 3
        shop_latency_seconds_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="+Inf"} 6
        shop_latency_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 9.5
        shop_latency_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 6
        shop_latency_seconds_created{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1700000000.0
        # HELP shop_patience_seconds what shop.patience is
        # TYPE shop_patience_seconds summary
        # UNIT shop_patience_seconds seconds
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.5"} 2
        shop_patience_seconds{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",quantile="0.99"} 4
        shop_patience_seconds_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 12.5
        shop_patience_seconds_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 5
        shop_patience_seconds_created{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1700000000.0
        # HELP shop_requests what shop.requests is
        # TYPE shop_requests counter
        shop_requests_total{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 7
        shop_requests_created{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1700000000.0
        # HELP shop_sent_bytes what shop.sent is
        # TYPE shop_sent_bytes counter
        # UNIT shop_sent_bytes bytes
        shop_sent_bytes_total{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 150
        shop_sent_bytes_created{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1700000000.0
        # HELP shop_sizes_bytes what shop.sizes is
        # TYPE shop_sizes_bytes histogram
        # UNIT shop_sizes_bytes bytes
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="0.0"} 1
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="2.0"} 3
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="4.0"} 4
        shop_sizes_bytes_bucket{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items",le="+Inf"} 4
        shop_sizes_bytes_sum{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 5.5
        shop_sizes_bytes_count{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 4
        shop_sizes_bytes_created{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 1700000000.0
        # HELP shop_temperature_celsius what shop.temperature is
        # TYPE shop_temperature_celsius gauge
        # UNIT shop_temperature_celsius celsius
        shop_temperature_celsius{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 21.5
        # HELP shop_waiting what shop.waiting is
        # TYPE shop_waiting gauge
        shop_waiting{instance="one",job="eu/shop",otel_scope_name="meter",otel_scope_version="1.2",path="/items"} 3
        # HELP target Target metadata
        # TYPE target info
        target_info{instance="one",job="eu/shop",host_name="h1"} 1
        # EOF
    "#]]
}
