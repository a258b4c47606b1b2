//! Pages of several pieces, and what happens between two of them.

use std::collections::BTreeSet;

use super::*;

/// A batch of a gauge with numbered series.
fn gauge(name: &str, series: std::ops::Range<usize>, value: f64) -> Batch {
    let data = |out: &mut Encoder| {
        out.string(1, name);
        out.message(5, |data| {
            for at in series.clone() {
                data.message(1, |out| {
                    number(0, 1, value)(out);
                    out.attribute_str(7, "series", format!("{at:06}"));
                    out.attribute_str(7, "text", "a text of some length, so that the page is a large one");
                });
            }
        });
    };
    batch(&[&data])
}

/// Scenario: a page of several pieces; between two of them series come, go and change, before and behind the place.
/// Guarantees: pieces of at most 512 KiB, none empty before the end; what stays is there exactly once, in order; a strict
/// reader reads it.
#[test]
fn what_is_absorbed_between_pieces_does_not_disturb_the_page() {
    let mut exporter = exporter("{}");
    for name in ["a", "m", "z"] {
        exporter.absorb_at(&gauge(name, 0..10_000, 1.0), 1);
    }
    let mut body = exporter.serve_at(&request("GET", "/metrics", OPEN), 1).body;
    assert!(body.len() <= cursor::PIECE_BYTES);
    let mut pieces = 0;
    loop {
        exporter.absorb_at(&gauge("m", 5_000..10_000, 2.0 + f64::from(pieces)), 1);
        exporter.absorb_at(&gauge("m", 10_000..10_001 + pieces as usize, 1.0), 1);
        exporter.absorb_at(&gauge(&format!("between_{pieces}"), 0..10, 1.0), 1);
        let piece = exporter.more_at(1);
        if piece.is_empty() {
            break;
        }
        assert!(piece.len() <= cursor::PIECE_BYTES);
        pieces += 1;
        body.extend(piece);
    }
    assert!(pieces >= 4, "{pieces}");
    weir_exposition::Check::all(&body).expect("a page that a strict reader reads");
    let page = String::from_utf8(body).expect("UTF-8");
    let series: Vec<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split("} ").next().expect("a series"))
        .collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "each once");
    for name in ["a", "m", "z"] {
        let here: Vec<_> = series.iter().filter(|line| line.starts_with(&format!("{name}{{"))).collect();
        assert!(here.len() >= 10_000 && here.is_sorted(), "{name}: {}", here.len());
    }
}

/// Scenario: a second request while a page is on its way; families that go while it is.
/// Guarantees: the second page is whole, and there is no more of the first; the end is the end.
#[test]
fn a_new_request_ends_the_page_before() {
    let mut exporter = exporter(r#"{"metric_expiration": "10s"}"#);
    exporter.absorb_at(&gauge("a", 0..20_000, 1.0), SECOND);
    let first = exporter.serve_at(&request("GET", "/metrics", ""), SECOND).body;
    let whole = text(&mut exporter, "", SECOND);
    assert!(whole.len() > 2 * first.len() && whole.as_bytes().starts_with(&first));
    assert!(exporter.more().is_empty());
    drop(exporter.serve_at(&request("GET", "/metrics", OPEN), SECOND));
    exporter.absorb_at(&gauge("b", 0..1, 1.0), 60 * SECOND);
    let mut rest = Vec::new();
    loop {
        let piece = exporter.more_at(60 * SECOND);
        if piece.is_empty() {
            break;
        }
        rest.extend(piece);
    }
    let rest = String::from_utf8(rest).expect("UTF-8");
    assert!(rest.ends_with("# EOF\n") && rest.contains("# TYPE b gauge"), "{}", rest.len());
}

/// Scenario: a series whose lines are more than a piece: a thousand buckets with labels nearly as long as they may be.
/// Guarantees: pieces are bounded all the same, and the page is whole.
#[test]
fn a_series_larger_than_a_piece_is_cut() {
    let mut exporter = exporter("{}");
    let bounds: Vec<f64> = (0..1_024).map(f64::from).collect();
    let point = |out: &mut Encoder| {
        histogram(0, 1, &bounds, &vec![1; 1_025], Some(1.0))(out);
        for key in ["a", "b", "c"] {
            out.attribute_str(9, key, "é".repeat(140));
        }
    };
    assert_eq!(exporter.absorb_at(&batch(&[&metric("h", 9, 2, &[&point])]), 1), Outcome::Accepted);
    let mut body = exporter.serve_at(&request("GET", "/metrics", OPEN), 1).body;
    let mut longest = body.len();
    loop {
        let piece = exporter.more_at(1);
        if piece.is_empty() {
            break;
        }
        longest = longest.max(piece.len());
        body.extend(piece);
    }
    assert!(longest <= cursor::PIECE_BYTES && body.len() > cursor::PIECE_BYTES);
    weir_exposition::Check::all(&body).expect("a page that a strict reader reads");
}
