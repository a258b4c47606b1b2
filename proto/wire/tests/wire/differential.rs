//! The crate against prost, over invented requests.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use weir_wire::json::{JsonLimits, to_json, to_protobuf};
use weir_wire::{Addition, Reason, Signal, WalkLimits, augment, cut, group, halve, join, walk};

use crate::invent::Choices;
use crate::oracle::*;
use crate::through_views;

/// Attributes of an item in these tests; invented items have up to three.
const ATTRIBUTES_MAX: usize = 2;

const LIMITS: WalkLimits =
    WalkLimits { items_max: 65_536, attributes_max: ATTRIBUTES_MAX, resources_max: 65_536 };

fn choices() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..1500)
}

/// One request of each signal, made from the same choices.
fn requests(choices: &[u8]) -> [(Signal, Vec<u8>); 3] {
    [
        (Signal::Traces, Choices::new(choices).traces().encode_to_vec()),
        (Signal::Metrics, Choices::new(choices).metrics().encode_to_vec()),
        (Signal::Logs, Choices::new(choices).logs().encode_to_vec()),
    ]
}

/// Bytes decoded and encoded by the oracle: equal for equal messages, NaN or not.
fn canonical(signal: Signal, body: &[u8]) -> Vec<u8> {
    match signal {
        Signal::Traces => Traces::decode(body).expect("a request").encode_to_vec(),
        Signal::Metrics => Metrics::decode(body).expect("a request").encode_to_vec(),
        Signal::Logs => Logs::decode(body).expect("a request").encode_to_vec(),
    }
}

/// The encoded items of a request, in order, each with what stands around it.
fn items(signal: Signal, body: &[u8]) -> Vec<Vec<u8>> {
    let mut items = Vec::new();
    match signal {
        Signal::Traces => {
            for group in Traces::decode(body).expect("a request").resource_spans {
                for scope in &group.scope_spans {
                    for span in &scope.spans {
                        let scope_spans = vec![ScopeSpans { spans: vec![span.clone()], ..scope.clone() }];
                        items.push(ResourceSpans { scope_spans, ..group.clone() }.encode_to_vec());
                    }
                }
            }
        }
        Signal::Metrics => {
            for group in Metrics::decode(body).expect("a request").resource_metrics {
                for scope in &group.scope_metrics {
                    for metric in scope.metrics.iter().flat_map(metric_with_each_point) {
                        let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..scope.clone() }];
                        items.push(ResourceMetrics { scope_metrics, ..group.clone() }.encode_to_vec());
                    }
                }
            }
        }
        Signal::Logs => {
            for group in Logs::decode(body).expect("a request").resource_logs {
                for scope in &group.scope_logs {
                    for record in &scope.log_records {
                        let scope_logs =
                            vec![ScopeLogs { log_records: vec![record.clone()], ..scope.clone() }];
                        items.push(ResourceLogs { scope_logs, ..group.clone() }.encode_to_vec());
                    }
                }
            }
        }
    }
    items
}

fn metric_with_each_point(metric: &Metric) -> Vec<Metric> {
    let data: Vec<Data> = match metric.data.clone() {
        None => vec![],
        Some(Data::Gauge(data)) => {
            data.data_points.into_iter().map(|it| Data::Gauge(Gauge { data_points: vec![it] })).collect()
        }
        Some(Data::Sum(data)) => {
            let one = |it: &NumberPoint| Data::Sum(Sum { data_points: vec![it.clone()], ..data.clone() });
            data.data_points.iter().map(one).collect()
        }
        Some(Data::Histogram(data)) => {
            let one = |it: &HistogramPoint| {
                Data::Histogram(Histogram { data_points: vec![it.clone()], ..data.clone() })
            };
            data.data_points.iter().map(one).collect()
        }
        Some(Data::Exponential(data)) => {
            let one = |it: &ExponentialPoint| {
                Data::Exponential(Exponential { data_points: vec![it.clone()], ..data.clone() })
            };
            data.data_points.iter().map(one).collect()
        }
        Some(Data::Summary(data)) => {
            data.data_points.into_iter().map(|it| Data::Summary(Summary { data_points: vec![it] })).collect()
        }
    };
    data.into_iter().map(|data| Metric { data: Some(data), ..metric.clone() }).collect()
}

/// What is wrong with an item, as the oracle sees it. `item` is one of [`items`].
fn fault(signal: Signal, item: &[u8]) -> Option<Reason> {
    let wrong = |id: &Vec<u8>, length: usize| !id.is_empty() && id.len() != length;
    let bad = |id: &Vec<u8>, length: usize| id.len() != length || id.iter().all(|byte| *byte == 0);
    let linked =
        |exemplars: &[Exemplar]| exemplars.iter().any(|it| wrong(&it.trace_id, 16) || wrong(&it.span_id, 8));
    let (attributes, reason) = match signal {
        Signal::Traces => {
            let group = ResourceSpans::decode(item).expect("a group");
            let span = &group.scope_spans[0].spans[0];
            let reason = if bad(&span.trace_id, 16) {
                Some(Reason::TraceId)
            } else if bad(&span.span_id, 8) {
                Some(Reason::SpanId)
            } else if wrong(&span.parent_span_id, 8) {
                Some(Reason::ParentSpanId)
            } else {
                let links = &span.links;
                links
                    .iter()
                    .any(|it| wrong(&it.trace_id, 16) || wrong(&it.span_id, 8))
                    .then_some(Reason::LinkedId)
            };
            (span.attributes.len(), reason)
        }
        Signal::Metrics => {
            let group = ResourceMetrics::decode(item).expect("a group");
            let (attributes, linked) =
                match group.scope_metrics[0].metrics[0].data.as_ref().expect("one point") {
                    Data::Gauge(data) => {
                        (data.data_points[0].attributes.len(), linked(&data.data_points[0].exemplars))
                    }
                    Data::Sum(data) => {
                        (data.data_points[0].attributes.len(), linked(&data.data_points[0].exemplars))
                    }
                    Data::Histogram(data) => {
                        (data.data_points[0].attributes.len(), linked(&data.data_points[0].exemplars))
                    }
                    Data::Exponential(data) => {
                        (data.data_points[0].attributes.len(), linked(&data.data_points[0].exemplars))
                    }
                    Data::Summary(data) => (data.data_points[0].attributes.len(), false),
                };
            (attributes, linked.then_some(Reason::LinkedId))
        }
        Signal::Logs => {
            let group = ResourceLogs::decode(item).expect("a group");
            let record = &group.scope_logs[0].log_records[0];
            let reason = if wrong(&record.trace_id, 16) {
                Some(Reason::TraceId)
            } else {
                wrong(&record.span_id, 8).then_some(Reason::SpanId)
            };
            (record.attributes.len(), reason)
        }
    };
    reason.or((attributes > ATTRIBUTES_MAX).then_some(Reason::Attributes))
}

// === what a view can't tell apart is made the same ===

fn plain_value(value: &mut Option<AnyValue>) {
    match value.as_mut().map(|value| &mut value.value) {
        Some(None) => *value = None,
        Some(Some(any)) => plain_any(any),
        None => {}
    }
}

fn plain_any(any: &mut Any) {
    match any {
        Any::Array(list) => list.values.iter_mut().filter_map(|it| it.value.as_mut()).for_each(plain_any),
        Any::Map(map) => plain_attributes(&mut map.values),
        Any::String(_) | Any::Bool(_) | Any::Int(_) | Any::Double(_) | Any::Bytes(_) => {}
    }
}

fn plain_attributes(attributes: &mut [KeyValue]) {
    attributes.iter_mut().for_each(|pair| plain_value(&mut pair.value));
}

fn plain_exemplars(exemplars: &mut [Exemplar]) {
    exemplars.iter_mut().for_each(|it| plain_attributes(&mut it.filtered_attributes));
}

fn plain_resource(resource: &mut Option<Resource>) {
    *resource = resource.take().filter(|resource| !resource.attributes.is_empty());
    if let Some(resource) = resource {
        resource.entity_refs.clear();
        resource.dropped_attributes_count = 0;
        plain_attributes(&mut resource.attributes);
    }
}

fn plain_scope(scope: &mut Option<Scope>) {
    *scope = scope.take().filter(|scope| scope.encoded_len() > 0);
    if let Some(scope) = scope {
        plain_attributes(&mut scope.attributes);
    }
}

fn plain_traces(mut request: Traces) -> Vec<u8> {
    for group in &mut request.resource_spans {
        plain_resource(&mut group.resource);
        for scope in &mut group.scope_spans {
            plain_scope(&mut scope.scope);
            for span in &mut scope.spans {
                plain_attributes(&mut span.attributes);
                span.events.iter_mut().for_each(|it| plain_attributes(&mut it.attributes));
                span.links.iter_mut().for_each(|it| plain_attributes(&mut it.attributes));
                span.status = span.status.take().filter(|status| *status != Status::default());
            }
        }
    }
    request.encode_to_vec()
}

fn plain_metrics(mut request: Metrics) -> Vec<u8> {
    for group in &mut request.resource_metrics {
        plain_resource(&mut group.resource);
        for scope in &mut group.scope_metrics {
            plain_scope(&mut scope.scope);
            for metric in &mut scope.metrics {
                plain_attributes(&mut metric.metadata);
                metric.data.iter_mut().for_each(plain_data);
            }
        }
    }
    request.encode_to_vec()
}

fn plain_data(data: &mut Data) {
    let numbers = |points: &mut Vec<NumberPoint>| {
        for point in points {
            plain_attributes(&mut point.attributes);
            plain_exemplars(&mut point.exemplars);
        }
    };
    match data {
        Data::Gauge(data) => numbers(&mut data.data_points),
        Data::Sum(data) => numbers(&mut data.data_points),
        Data::Histogram(data) => {
            for point in &mut data.data_points {
                plain_attributes(&mut point.attributes);
                plain_exemplars(&mut point.exemplars);
            }
        }
        Data::Exponential(data) => {
            for point in &mut data.data_points {
                plain_attributes(&mut point.attributes);
                plain_exemplars(&mut point.exemplars);
                for buckets in [&mut point.positive, &mut point.negative] {
                    *buckets = buckets.take().filter(|buckets| *buckets != Buckets::default());
                }
            }
        }
        Data::Summary(data) => {
            data.data_points.iter_mut().for_each(|it| plain_attributes(&mut it.attributes))
        }
    }
}

fn plain_logs(mut request: Logs) -> Vec<u8> {
    for group in &mut request.resource_logs {
        plain_resource(&mut group.resource);
        for scope in &mut group.scope_logs {
            plain_scope(&mut scope.scope);
            for record in &mut scope.log_records {
                plain_attributes(&mut record.attributes);
                plain_value(&mut record.body);
            }
        }
    }
    request.encode_to_vec()
}

// === properties ===

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Scenario: invented requests of every signal, encoded by prost and gathered from the views.
    /// Guarantees: the views show every field as prost decodes it.
    #[test]
    fn views_show_what_prost_decodes(choices in choices()) {
        let [(_, traces), (_, metrics), (_, logs)] = requests(&choices);
        prop_assert_eq!(
            plain_traces(through_views::traces(&traces).expect("views")),
            plain_traces(Traces::decode(&*traces).expect("a request"))
        );
        prop_assert_eq!(
            plain_metrics(through_views::metrics(&metrics).expect("views")),
            plain_metrics(Metrics::decode(&*metrics).expect("a request"))
        );
        prop_assert_eq!(
            plain_logs(through_views::logs(&logs).expect("views")),
            plain_logs(Logs::decode(&*logs).expect("a request"))
        );
    }

    /// Scenario: invented requests, some of whose items are not valid.
    /// Guarantees: the walk counts and judges as the oracle does, and cutting leaves exactly the valid items.
    #[test]
    fn a_walk_judges_as_the_oracle_and_a_cut_leaves_the_valid(choices in choices()) {
        for (signal, body) in requests(&choices) {
            let walked = walk(signal, &body, &LIMITS).expect("a request");
            let items_before = items(signal, &body);
            prop_assert_eq!(walked.items, items_before.len());
            let faults: Vec<_> = items_before.iter().filter_map(|item| fault(signal, item)).collect();
            let found: Vec<_> = walked.invalid.iter().map(|invalid| invalid.reason).collect();
            prop_assert_eq!(found, faults);
            prop_assert_eq!(walked.resources.iter().map(|part| part.items).sum::<usize>(), walked.items);

            let cut = cut(&body, &walked).expect("the body that was walked");
            let valid: Vec<_> = items_before.into_iter().filter(|item| fault(signal, item).is_none()).collect();
            prop_assert_eq!(items(signal, &cut), valid);
            let again = walk(signal, &cut, &LIMITS).expect("a request");
            prop_assert_eq!((again.items, again.invalid.len()), (walked.valid_items(), 0));
        }
    }

    /// Scenario: invented requests are halved until nothing can be halved, and joined again.
    /// Guarantees: halves differ by one item at most, and no item is lost, doubled, changed or moved.
    #[test]
    fn halves_joined_are_the_whole(choices in choices()) {
        for (signal, body) in requests(&choices) {
            let whole = items(signal, &body);
            let Some((first, second)) = halve(signal, &body) else {
                prop_assert!(whole.len() < 2);
                continue;
            };
            let (one, two) = (items(signal, &first), items(signal, &second));
            prop_assert_eq!(one.len(), whole.len() / 2);
            prop_assert_eq!(two.len(), whole.len() - whole.len() / 2);
            prop_assert_eq!(items(signal, &join(&[&first, &second])), whole);
        }
    }

    /// Scenario: attributes are added to invented requests, over the sender's and not.
    /// Guarantees: every resource has them once, the sender's stay or go as told, all else is the same.
    #[test]
    fn augmenting_changes_resources_only(choices in choices(), overwrite in any::<bool>()) {
        let additions = [Addition::string("service.name", "weir"), Addition::int("a", 7)];
        let added = [
            ("service.name".to_owned(), Any::String("weir".to_owned())),
            ("a".to_owned(), Any::Int(7)),
        ];
        let mut request = Choices::new(&choices).traces();
        let body = request.encode_to_vec();
        let augmented = augment(&body, &additions, overwrite).expect("a request");
        for group in &mut request.resource_spans {
            let attributes = &mut group.resource.get_or_insert_default().attributes;
            for (key, value) in &added {
                let pair = KeyValue { key: key.clone(), value: Some(AnyValue { value: Some(value.clone()) }) };
                match attributes.iter().position(|pair| pair.key == *key) {
                    None => attributes.push(pair),
                    Some(at) if overwrite => {
                        let mut index = 0;
                        attributes.retain(|pair| { index += 1; index <= at + 1 || pair.key != *key });
                        attributes[at] = pair;
                    }
                    Some(_) => {}
                }
            }
        }
        prop_assert_eq!(Traces::decode(&*augmented).expect("a request").encode_to_vec(), request.encode_to_vec());
    }

    /// Scenario: the resource groups of invented requests are sorted into three requests.
    /// Guarantees: each holds its groups, whole and in order.
    #[test]
    fn groups_hold_their_parts(choices in choices(), group_of in vec(0usize..3, 0..8)) {
        let request = Choices::new(&choices).logs();
        let body = request.encode_to_vec();
        let walked = walk(Signal::Logs, &body, &LIMITS).expect("a request");
        for (index, sorted) in group(&body, &walked.resources, &group_of, 3).iter().enumerate() {
            let mine = |part: &usize| group_of.get(*part).copied().unwrap_or(0) == index;
            let expected = (0..request.resource_logs.len()).filter(mine);
            let resource_logs = expected.map(|part| request.resource_logs[part].clone()).collect();
            prop_assert_eq!(sorted, &Logs { resource_logs }.encode_to_vec());
        }
    }

    /// Scenario: invented requests go to JSON and back.
    /// Guarantees: nothing is lost or changed but the payload of a NaN.
    #[test]
    fn json_and_back_is_the_same_request(choices in choices()) {
        for (signal, body) in requests(&choices) {
            let mut json = Vec::new();
            to_json(signal, &body, &mut json).expect("a request");
            let back = to_protobuf(signal, &json, &JsonLimits::default())
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&json)));
            prop_assert_eq!(canonical(signal, &back), canonical(signal, &body), "{}", String::from_utf8_lossy(&json));
        }
    }
}
