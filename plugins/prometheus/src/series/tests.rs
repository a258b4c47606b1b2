//! Each kind of data as series; what is hostile.

use weir_guest::wire::Encoder;

use super::*;

/// What a batch became: a line for each point, and why the others are not there.
#[derive(Default)]
struct Lines(Vec<String>);

impl Sink for Lines {
    fn metric(&mut self, metric: &Metric<'_>) -> Result<(), Reason> {
        if metric.name == "unwanted" { Err("unwanted") } else { Ok(()) }
    }

    fn point(&mut self, metric: &Metric<'_>, point: &Point<'_, '_>) -> Result<(), Reason> {
        let labels: Vec<_> = point.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let value = match &point.value {
            Value::Number(number, _) => number.to_string(),
            Value::Histogram(view) => format!("{}", view.count),
            Value::Exponential(view) => format!("{}@{}", view.count, view.scale),
            Value::Summary(view) => format!("{}", view.count),
        };
        let delta = if metric.is_delta { " delta" } else { "" };
        let gone = if point.is_gone { " gone" } else { "" };
        let line = format!(
            "{:?} {}{{{}}} {value} @{}{delta}{gone}",
            metric.kind,
            metric.name,
            labels.join(","),
            point.time
        );
        self.0.push(line);
        Ok(())
    }
}

type Write<'w> = &'w dyn Fn(&mut Encoder);

fn request(resource: Write<'_>, scope: Write<'_>, metrics: &[Write<'_>]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.message(1, |group| {
        group.message(1, resource);
        group.message(2, |group| {
            scope(group);
            for metric in metrics {
                group.message(2, metric);
            }
        });
    });
    out.into_bytes()
}

fn read(options: Options, body: &[u8]) -> (Vec<String>, Read) {
    let mut lines = Lines::default();
    let read = Translator::new(options).read(body, 99, &mut lines).expect("a good batch");
    (lines.0, read)
}

fn nothing(_: &mut Encoder) {}

fn metric<'w>(
    name: &'w str,
    unit: &'w str,
    field: u32,
    data: impl Fn(&mut Encoder) + 'w,
) -> impl Fn(&mut Encoder) + 'w {
    move |out| {
        out.string(1, name);
        out.string(3, unit);
        out.message(field, |out| data(out));
    }
}

fn number(out: &mut Encoder) {
    out.message(1, |point| {
        point.fixed64(3, 7);
        point.fixed64(6, 5);
    });
}

/// Scenario: each kind of data by each temporality, monotonic or not, with a type said in the metadata or not.
/// Guarantees: the kinds of the table in the module's head; what has no kind is counted for it.
#[test]
fn each_kind_of_data_has_its_kind() {
    let sum = |temporality: u64, is_monotonic: bool| {
        move |out: &mut Encoder| {
            number(out);
            out.varint(2, temporality);
            out.bool(3, is_monotonic);
        }
    };
    let histogram = |temporality: u64| {
        move |out: &mut Encoder| {
            out.message(1, |point| point.fixed64(3, 7));
            out.varint(2, temporality);
        }
    };
    let said = |kind: &'static str, field: u32| {
        move |out: &mut Encoder| {
            out.string(1, "said");
            out.message(field, sum(2, false));
            out.attribute_str(12, "prometheus.type", kind);
        }
    };
    let (lines, read) = read(
        Options::default(),
        &request(
            &nothing,
            &nothing,
            &[
                &metric("s", "", 7, sum(2, true)),
                &metric("s", "", 7, sum(1, true)),
                &metric("s", "", 7, sum(2, false)),
                &metric("s", "", 7, sum(1, false)),
                &metric("s", "", 7, sum(0, true)),
                &metric("g", "", 5, number),
                &metric("h", "", 9, histogram(2)),
                &metric("h", "", 9, histogram(1)),
                &metric("h", "", 9, histogram(0)),
                &metric("e", "", 10, histogram(2)),
                &metric("e", "", 10, histogram(1)),
                &metric("q", "", 11, histogram(0)),
                &said("info", 7),
                &said("stateset", 7),
                &said("unknown", 5),
                &said("gauge", 5),
                &metric("unwanted", "", 5, number),
                &metric("@", "", 5, number),
                &metric("none", "", 12, nothing),
            ],
        ),
    );
    assert_eq!(
        lines,
        [
            "Counter s_total{} 5 @7",
            "Counter s_total{} 5 @7 delta",
            "Gauge s{} 5 @7",
            "Gauge g{} 5 @7",
            "Histogram h{} 0 @7",
            "Histogram h{} 0 @7 delta",
            "Histogram e{} 0@0 @7",
            "Histogram e{} 0@0 @7 delta",
            "Summary q{} 0 @7",
            "Info said{} 5 @7",
            "StateSet said{} 5 @7",
            "Unknown said{} 5 @7",
            "Gauge said{} 5 @7",
        ]
    );
    assert_eq!((read.points, read.rejected()), (18, 5));
    assert_eq!(read.dropped, [("name", 1), ("temporality", 3), ("unwanted", 1)].into());
}

/// Scenario: a resource and a scope with all that they may have, points with clashing attributes; the options that add and
/// take labels.
/// Guarantees: job, instance and scope are labels, the rest of the resource is target_info; the options do what they say.
#[test]
fn resource_and_scope_are_labels() {
    let resource = |out: &mut Encoder| {
        out.attribute_str(1, "service.name", "shop");
        out.attribute_str(1, "service.namespace", "eu");
        out.attribute_int(1, "service.instance.id", 7);
        out.attribute_str(1, "host.name", "a");
    };
    let scope = |out: &mut Encoder| {
        out.message(1, |scope| {
            scope.string(1, "lib");
            scope.string(2, "1.0");
            scope.attribute_str(3, "x.y", "z");
            scope.attribute_str(3, "name", "other");
        });
        out.string(3, "http://schema");
    };
    let point = |out: &mut Encoder| {
        out.message(1, |point| {
            point.fixed64(3, 7);
            point.double(4, 0.5);
            point.attribute_str(7, "job", "mine");
            point.attribute_str(7, "host.name", "b");
            point.attribute_bool(7, "ok", true);
        });
    };
    let body = request(&resource, &scope, &[&metric("g", "", 5, point)]);
    let scope =
        "otel_scope_name=lib,otel_scope_schema_url=http://schema,otel_scope_version=1.0,otel_scope_x_y=z";
    let own = "exported_job=mine,host_name=b,instance=7,job=eu/shop,ok=true";
    let info = "Info target_info{host_name=a,instance=7,job=eu/shop} 1 @7";
    let (lines, _) = read(Options::default(), &body);
    let all = own.replace(",ok", &format!(",ok=true,{scope}")).replace(&format!("{scope}=true"), scope);
    assert_eq!(lines, [format!("Gauge g{{{}}} 0.5 @7", all), info.to_owned()]);

    let options = Options {
        namespace: "n".into(),
        const_labels: vec![("env".into(), "test".into()), ("ok".into(), "never".into())],
        scope_labels: false,
        resource_labels: true,
        target_info: false,
        ..Options::default()
    };
    let (lines, _) = read(options, &body);
    let all = "env=test,exported_job=mine,host_name=a,instance=7,job=eu/shop,ok=true,service_instance_id=7,service_name=shop,service_namespace=eu";
    assert_eq!(lines, [format!("Gauge n_g{{{all}}} 0.5 @7")]);
}

/// Scenario: resources with nothing but their identity, without an identity, with a name alone, without points.
/// Guarantees: target_info only where there is something to say of something.
#[test]
fn a_resource_has_a_target_info_when_it_says_more_than_its_name() {
    let gauge = metric("g", "", 5, number);
    let infos = |resource: Write<'_>, metrics: &[Write<'_>]| {
        let (lines, _) = read(Options::default(), &request(resource, &nothing, metrics));
        lines.into_iter().filter(|line| line.contains("target_info")).collect::<Vec<_>>()
    };
    let name = |out: &mut Encoder| out.attribute_str(1, "service.name", "shop");
    let host = |out: &mut Encoder| out.attribute_str(1, "host.name", "a");
    let both = |out: &mut Encoder| {
        name(out);
        host(out);
    };
    assert_eq!(infos(&name, &[&gauge]), Vec::<String>::new());
    assert_eq!(infos(&host, &[&gauge]), Vec::<String>::new());
    assert_eq!(infos(&both, &[]), Vec::<String>::new());
    assert_eq!(infos(&both, &[&gauge]), ["Info target_info{host_name=a,job=shop} 1 @7"]);
}

/// Scenario: points without a value, without a time, that say that their series is gone; an attribute nested too deep.
/// Guarantees: only what has no value, or a broken one, is dropped.
#[test]
fn a_point_without_a_value_is_dropped_unless_it_says_so() {
    let points = |out: &mut Encoder| {
        out.message(1, |point| point.fixed64(3, 7));
        out.message(1, |point| point.double(4, 1.0));
        out.message(1, |point| {
            point.fixed64(3, 7);
            point.varint(8, 1);
        });
        let mut deep = Vec::new();
        for _ in 0..200 {
            let mut outer = Encoder::new();
            outer.message(5, |list| list.bytes(1, &deep));
            deep = outer.into_bytes();
        }
        out.message(1, |point| {
            point.double(4, 1.0);
            point.attribute_any(7, "deep", &deep);
        });
    };
    let (lines, read) =
        read(Options::default(), &request(&nothing, &nothing, &[&metric("g", "", 5, points)]));
    assert_eq!(lines, ["Gauge g{} 1 @99", "Gauge g{} 0 @7 gone"]);
    assert_eq!((read.points, read.dropped), (4, [("malformed", 2)].into()));
}

/// Scenario: a bucket's bound and a quantile as attributes; names, descriptions and units longer than are taken.
/// Guarantees: the attributes give way; the description is cut between characters; the rest is refused for its size.
#[test]
fn names_are_bounded_and_reserved_labels_are_kept() {
    let labelled = |field: u32| {
        move |out: &mut Encoder| {
            out.message(1, |point| {
                point.attribute_str(field, "le", "1");
                point.attribute_str(field, "quantile", "2");
            });
            out.varint(2, 2);
        }
    };
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let (lines, read) = read(
        Options::default(),
        &request(
            &nothing,
            &nothing,
            &[
                &metric("h", "", 9, labelled(9)),
                &metric("s", "", 11, labelled(7)),
                &metric(&long, "", 5, number),
                &metric("g", &long, 5, number),
            ],
        ),
    );
    assert_eq!(
        lines,
        ["Histogram h{exported_le=1,quantile=2} 0 @99", "Summary s{exported_quantile=2,le=1} 0 @99",]
    );
    assert_eq!(read.dropped, [("size", 2)].into());
    let help = "é".repeat(HELP_BYTES_MAX);
    assert_eq!(help_of(&help.as_bytes()[1..]).chars().count(), 1 + HELP_BYTES_MAX / 2 - 1);
    assert_eq!(help_of(b"short"), "short");
}

/// Scenario: random bytes, and a good batch with random bytes changed, for a second.
/// Guarantees: no panic, however it is read; the seed is printed.
#[test]
fn random_bytes_end_in_points_or_an_error() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let sum = |out: &mut Encoder| {
        number(out);
        out.varint(2, 2);
    };
    let host = |out: &mut Encoder| {
        out.attribute_str(1, "service.name", "a");
        out.attribute_str(1, "host.name", "b");
    };
    let good = request(&host, &nothing, &[&metric("a.b", "By/s", 7, sum), &metric("g", "1", 5, number)]);
    let started = std::time::Instant::now();
    let mut translator = Translator::new(Options { resource_labels: true, ..Options::default() });
    let mut runs = 0;
    while started.elapsed().as_millis() < 1_000 {
        let mut body = good.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        drop(translator.read(&body, 1, &mut Lines::default()));
        runs += 1;
    }
    assert!(runs > 10, "{runs}");
}
