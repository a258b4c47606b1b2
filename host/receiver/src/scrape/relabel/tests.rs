//! Rules against what Prometheus does with them (`model/relabel/relabel_test.go`, and the cases of its documentation).

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A rule of its keys.
fn rule(keys: &[(&str, &str)]) -> Written {
    let mut written = Written::default();
    for (key, value) in keys {
        let text = Some((*value).to_owned());
        match *key {
            "source_labels" => written.source_labels = value.split(',').map(str::to_owned).collect(),
            "separator" => written.separator = text,
            "target_label" => written.target_label = text,
            "regex" => written.regex = text,
            "replacement" => written.replacement = text,
            "modulus" => written.modulus = Some(value.parse().unwrap()),
            "action" => {
                let named = Action::NAMES.iter().find(|(name, _)| name == value);
                written.action = named.unwrap_or_else(|| panic!("no action {value}")).1;
            }
            key => panic!("no key {key}"),
        }
    }
    written
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

#[track_caller]
fn check(before: Pairs<'_>, rules: &[Pairs<'_>], after: Option<Pairs<'_>>) {
    let rules: Vec<Rule> = rules.iter().map(|keys| Rule::new(rule(keys)).unwrap()).collect();
    let mut made = labels(before);
    let kept = apply(&rules, &mut made);
    assert_eq!(kept.then_some(made), after.map(labels));
}

const ABC: Pairs<'static> = &[("a", "foo"), ("b", "bar"), ("c", "baz")];

/// Scenario: replacements with and without groups, matches and values.
/// Guarantees: a match sets or removes the label, no match leaves it.
#[test]
fn a_replacement_sets_what_the_expression_has_matched() {
    let rule = &[
        ("source_labels", "a"),
        ("target_label", "d"),
        ("regex", "f(.*)"),
        ("replacement", "ch${1}-ch${1}"),
    ][..];
    check(ABC, &[rule], Some(&[("a", "foo"), ("b", "bar"), ("c", "baz"), ("d", "choo-choo")]));
    // Two sources, and a rule that works on what the one before made.
    let joined = &[
        ("source_labels", "a,b"),
        ("target_label", "a"),
        ("regex", "f(.*);(.*)r"),
        ("replacement", "b${1}${2}m"),
    ][..];
    let again = &[
        ("source_labels", "c,a"),
        ("regex", "(b).*b(.*)ba(.*)"),
        ("target_label", "d"),
        ("replacement", "$1$2$2$3"),
    ][..];
    check(ABC, &[joined, again], Some(&[("a", "boobam"), ("b", "bar"), ("c", "baz"), ("d", "boooom")]));
    // The expression matches the whole value or not at all.
    let half = &[("source_labels", "a"), ("target_label", "d"), ("regex", "f"), ("replacement", "x")][..];
    check(ABC, &[half], Some(ABC));
    // An empty replacement removes the label; without sources the value is empty, and the default matches it.
    let remove = &[("source_labels", "a"), ("regex", "foo"), ("target_label", "b"), ("replacement", "")][..];
    check(ABC, &[remove], Some(&[("a", "foo"), ("c", "baz")]));
    let constant = &[("target_label", "env"), ("replacement", "prod")][..];
    check(&[("a", "1")], &[constant], Some(&[("a", "1"), ("env", "prod")]));
    // A group that is none is empty, `$$` is a dollar.
    let dollar = &[("source_labels", "a"), ("target_label", "d"), ("replacement", "$$-${9}$1")][..];
    check(&[("a", "x")], &[dollar], Some(&[("a", "x"), ("d", "$-x")]));
}

/// Scenario: a target label with groups in it; one that comes out empty.
/// Guarantees: the name is made of the match; without a name nothing is set.
#[test]
fn a_target_label_may_be_made_of_the_match() {
    let before = &[("a", "some-name-value")][..];
    let rule = &[
        ("source_labels", "a"),
        ("regex", "some-([^-]+)-([^,]+)"),
        ("replacement", "${2}"),
        ("target_label", "${1}"),
    ][..];
    check(before, &[rule], Some(&[("a", "some-name-value"), ("name", "value")]));
    let none = &[
        ("source_labels", "a"),
        ("regex", "some-([^-]+)-([^,]+)"),
        ("replacement", "${2}"),
        ("target_label", "${3}"),
    ][..];
    check(before, &[none], Some(before));
}

/// Scenario: the rules of a probe's scrape, as its documentation has them.
/// Guarantees: the address becomes a parameter and the instance, the probe the address.
#[test]
fn the_rules_of_a_probe_turn_the_address_into_a_parameter() {
    let before = &[("__address__", "https://prometheus.io"), ("job", "probe")][..];
    let rules = [
        &[("source_labels", "__address__"), ("target_label", "__param_target")][..],
        &[("source_labels", "__param_target"), ("target_label", "instance")][..],
        &[("target_label", "__address__"), ("replacement", "127.0.0.1:9115")][..],
    ];
    let after = &[
        ("__address__", "127.0.0.1:9115"),
        ("__param_target", "https://prometheus.io"),
        ("instance", "https://prometheus.io"),
        ("job", "probe"),
    ][..];
    check(before, &rules, Some(after));
}

/// Scenario: keep and drop, keepequal and dropequal, on values that match and values that do not.
/// Guarantees: the target is let go exactly where Prometheus lets it go.
#[test]
fn targets_are_let_go_by_what_matches_and_what_is_equal() {
    let keep = |regex| [("source_labels", "a"), ("regex", regex), ("action", "keep")];
    let drop = |regex| [("source_labels", "a"), ("regex", regex), ("action", "drop")];
    check(ABC, &[&keep("foo|x")], Some(ABC));
    check(ABC, &[&keep("fo")], None);
    check(ABC, &[&drop(".*o.*")], None);
    check(ABC, &[&drop("f|b")], Some(ABC));
    let missing = [("source_labels", "z"), ("regex", ".+"), ("action", "keep")];
    check(ABC, &[&missing], None);
    let equal = |target, action| [("source_labels", "a"), ("target_label", target), ("action", action)];
    let twins = &[("a", "1"), ("b", "1"), ("c", "2")][..];
    check(twins, &[&equal("b", "keepequal")], Some(twins));
    check(twins, &[&equal("c", "keepequal")], None);
    check(twins, &[&equal("b", "dropequal")], None);
    check(twins, &[&equal("c", "dropequal")], Some(twins));
    // A dot is every character.
    check(&[("a", "x\ny")], &[&keep("x.y")], Some(&[("a", "x\ny")]));
}

/// Scenario: hashes of one and of several sources, whose numbers were made with Python's hashlib by Prometheus' rule.
/// Guarantees: the numbers are Prometheus', so that collectors of both kinds can share targets.
#[test]
fn a_hash_is_that_of_prometheus() {
    let rule =
        &[("source_labels", "a,b,c"), ("target_label", "d"), ("modulus", "1000"), ("action", "hashmod")][..];
    check(ABC, &[rule], Some(&[("a", "foo"), ("b", "bar"), ("c", "baz"), ("d", "719")]));
}

/// Scenario: labelmap with and without groups, labeldrop, labelkeep.
/// Guarantees: names are mapped with their values, and removed or kept by their whole name.
#[test]
fn names_are_mapped_dropped_and_kept() {
    let before = &[("__meta_kubernetes_pod_app", "x"), ("__meta_kubernetes_pod_tier", "y"), ("job", "j")][..];
    let map = &[("regex", "__meta_kubernetes_pod_(.+)"), ("action", "labelmap")][..];
    let mapped = [before, &[("app", "x"), ("tier", "y")]].concat();
    check(before, &[map], Some(&mapped));
    let renamed =
        &[("regex", "__meta_kubernetes_pod_(.+)"), ("replacement", "pod_$1"), ("action", "labelmap")][..];
    check(before, &[renamed], Some(&[before, &[("pod_app", "x"), ("pod_tier", "y")]].concat()));
    check(ABC, &[&[("regex", "a|b"), ("action", "labeldrop")]], Some(&[("c", "baz")]));
    check(ABC, &[&[("regex", "a|b"), ("action", "labelkeep")]], Some(&[("a", "foo"), ("b", "bar")]));
    check(ABC, &[&[("regex", "x"), ("action", "labeldrop")]], Some(ABC));
}

/// Scenario: lower and upper case, of ASCII and of other letters.
/// Guarantees: the target label has the sources in that case.
#[test]
fn cases_are_changed() {
    let to =
        |action| [("source_labels", "a,b"), ("separator", ""), ("target_label", "c"), ("action", action)];
    let before = &[("a", "bAr123Foo"), ("b", "É")][..];
    check(before, &[&to("lowercase")], Some(&[("a", "bAr123Foo"), ("b", "É"), ("c", "bar123fooé")]));
    check(before, &[&to("uppercase")], Some(&[("a", "bAr123Foo"), ("b", "É"), ("c", "BAR123FOOÉ")]));
}

/// Scenario: rules that lack what their action needs, have what it does not use, or an expression that is none or too large.
/// Guarantees: each is refused with the key at fault.
#[test]
fn rules_that_cannot_work_are_refused_with_their_key() {
    let cases: [(Pairs<'_>, &str); 14] = [
        (&[("source_labels", "a")], "target_label"),
        (&[("action", "hashmod"), ("target_label", "b")], "modulus"),
        (&[("action", "hashmod"), ("modulus", "2")], "target_label"),
        (&[("action", "lowercase")], "target_label"),
        (&[("action", "lowercase"), ("target_label", "b"), ("replacement", "x")], "replacement"),
        (&[("action", "keepequal"), ("target_label", "b"), ("regex", "x")], "regex"),
        (&[("action", "dropequal"), ("target_label", "b"), ("separator", "x")], "separator"),
        (&[("action", "labeldrop"), ("source_labels", "b"), ("regex", "x")], "source_labels"),
        (&[("action", "labelkeep"), ("target_label", "b"), ("regex", "x")], "target_label"),
        (&[("action", "labelmap"), ("replacement", "")], "replacement"),
        (&[("action", "keep"), ("regex", "(")], "regex"),
        (&[("action", "keep"), ("regex", "a)|(?:b")], "regex"),
        (&[("action", "keep"), ("regex", "((a{100}){100}){100}")], "regex"),
        (&[("action", "keep"), ("regex", "(?P<x>a)(?=b)")], "regex"),
    ];
    for (keys, key) in cases {
        let error = Rule::new(rule(keys)).expect_err(&format!("{keys:?} was taken"));
        assert_eq!(error.key, key, "{error}");
    }
}

/// Scenario: rules that double a value, again and again, and that make ever more labels.
/// Guarantees: values and labels stay within their bounds.
#[test]
fn rules_cannot_grow_a_target_without_end() {
    let double =
        Rule::new(rule(&[("source_labels", "a"), ("target_label", "a"), ("replacement", "$1$1")])).unwrap();
    let copy = Rule::new(rule(&[("regex", "(.*)"), ("replacement", "x$1"), ("action", "labelmap")])).unwrap();
    let mut made = labels(&[("a", "ab")]);
    for _ in 0..100 {
        assert!(double.apply(&mut made) && copy.apply(&mut made));
    }
    assert!(made.len() <= LABELS_MAX);
    assert!(made.iter().all(|(name, value)| name.len() <= VALUE_BYTES_MAX && value.len() <= VALUE_BYTES_MAX));
}
