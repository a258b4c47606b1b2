//! Deltas that follow each other, and histograms that are merged.

use weir_guest::wire::Encoder;
use weir_guest::wire::otlp::View;

use super::*;

/// One side of an exponential histogram: the first index and counts.
type Side<'s> = (i32, &'s [u64]);

fn message(
    scale: i32,
    zero: (u64, f64),
    positive: Side<'_>,
    negative: Side<'_>,
    sum: Option<f64>,
) -> Vec<u8> {
    let mut out = Encoder::new();
    let count = zero.0 + positive.1.iter().chain(negative.1).sum::<u64>();
    out.fixed64(4, count);
    if let Some(sum) = sum {
        out.double(5, sum);
    }
    out.sint(6, i64::from(scale));
    out.fixed64(7, zero.0);
    for (field, (offset, counts)) in [(8, positive), (9, negative)] {
        out.message(field, |out| {
            out.sint(1, i64::from(offset));
            out.packed_varint(2, counts.iter().copied());
        });
    }
    out.double(14, zero.1);
    out.into_bytes()
}

fn exponential(scale: i32, zero: (u64, f64), positive: Side<'_>, negative: Side<'_>) -> Exponential {
    let message = message(scale, zero, positive, negative, Some(1.0));
    Exponential::read(&ExponentialPointView::parse(&message).expect("a point")).expect("a histogram")
}

fn explicit(bounds: &[f64], counts: &[u64], sum: Option<f64>) -> Result<Explicit, Reason> {
    let mut out = Encoder::new();
    out.fixed64(4, counts.iter().sum());
    if let Some(sum) = sum {
        out.double(5, sum);
    }
    out.packed_fixed64(6, counts.iter().copied());
    out.packed_double(7, bounds.iter().copied());
    Explicit::read(&HistogramPointView::parse(out.as_bytes()).expect("a point"), None)
}

/// Scenario: deltas that continue, leave a gap, overlap, are told again, have no start; cumulative points newer, older, again.
/// Guarantees: as the table in the module's head says.
#[test]
fn a_point_follows_on_what_is_held() {
    for (start, time, turn_of_delta) in [
        (10, 20, Turn::Add),
        (0, 20, Turn::Add),
        (12, 20, Turn::Replace),
        (9, 20, Turn::Overlap),
        (5, 10, Turn::Overlap),
        (0, 10, Turn::Overlap),
    ] {
        assert_eq!(turn(true, 10, start, time), turn_of_delta, "{start} {time}");
    }
    assert_eq!([9, 10, 11].map(|time| turn(false, 10, 3, time)), [Turn::Old, Turn::Replace, Turn::Replace]);
}

/// Scenario: histograms with the same bounds, with others, without sum, and what is none.
/// Guarantees: counts and sums add up; a missing sum is missing from then on; other bounds are refused; bounds are shared.
#[test]
fn histograms_with_the_same_bounds_add_up() {
    let mut held = explicit(&[1.0, 2.0], &[1, 2, 3], Some(9.0)).expect("good");
    assert!(held.add(&explicit(&[1.0, 2.0], &[10, 0, 1], Some(0.5)).expect("good")));
    assert_eq!((&*held.counts, held.count, held.sum), (&[11, 2, 4][..], 17, Some(9.5)));
    assert!(held.add(&explicit(&[1.0, 2.0], &[0, 0, 1], None).expect("good")));
    assert_eq!((held.count, held.sum), (18, None));
    assert!(!held.add(&explicit(&[1.0, 3.0], &[0, 0, 1], None).expect("good")));
    let infinite = explicit(&[1.0, f64::INFINITY], &[1, 2, 3], None).expect("good");
    assert_eq!((&*infinite.bounds, &*infinite.counts), (&[1.0][..], &[1, 5][..]));
    assert_eq!(explicit(&[], &[], None).expect("good").count, 0);
    for (bounds, counts) in [
        (&[1.0][..], &[1][..]),
        (&[2.0, 1.0], &[1, 1, 1]),
        (&[1.0, 1.0], &[1, 1, 1]),
        (&[f64::NAN], &[1, 1]),
        (&[f64::NAN, 1.0], &[1, 1, 1]),
    ] {
        assert_eq!(explicit(bounds, counts, None), Err(reason::MALFORMED), "{bounds:?}");
    }
    let many: Vec<f64> = (0..2_000).map(f64::from).collect();
    assert_eq!(explicit(&many, &vec![1; 2_001], None), Err(reason::SIZE));
    let mut full = explicit(&[1.0], &[u64::MAX - 1, 1], None).expect("good");
    assert!(full.add(&explicit(&[1.0], &[5, 5], None).expect("good")));
    assert_eq!((&*full.counts, full.count), (&[u64::MAX, 6][..], u64::MAX));
}

/// Scenario: exponential histograms of differing scales, ranges and thresholds.
/// Guarantees: the coarser scale, every value once, those within the larger threshold around zero.
#[test]
fn exponential_histograms_of_differing_scales_merge_down() {
    // Scale 1: bounds are powers of sqrt(2). Two of its buckets are one of scale 0.
    let mut held = exponential(1, (1, 0.0), (0, &[1, 2, 3, 4]), (-1, &[5]));
    held.add(&exponential(0, (2, 0.0), (1, &[10, 0, 7]), (0, &[])));
    assert_eq!((held.scale, held.zero_count, held.count, held.sum), (0, 3, 35, Some(2.0)));
    assert_eq!(held.positive, Dense { offset: 0, counts: vec![3, 17, 0, 7] });
    assert_eq!(held.negative, Dense { offset: -1, counts: vec![5] });
    // Values up to 2 are around zero now.
    held.add(&exponential(0, (1, 2.0), (3, &[1]), (0, &[])));
    assert_eq!((held.zero_count, held.zero_threshold, held.count), (3 + 1 + 3 + 5, 2.0, 37));
    assert_eq!(held.positive, Dense { offset: 1, counts: vec![17, 0, 8] });
}

/// Scenario: an exponential histogram with values on both sides of zero and in it.
/// Guarantees: the bounds of its buckets, rising; every value is in one.
#[test]
fn exponents_become_bounds() {
    let Explicit { bounds, counts, count, sum } =
        exponential(0, (4, 0.25), (0, &[1, 0, 2]), (-1, &[8, 16])).to_explicit();
    // Negative: (-1, -0.5] and (-2, -1].
    assert_eq!(*bounds, [-1.0, -0.5, 0.25, 2.0, 4.0, 8.0]);
    assert_eq!((&*counts, count, sum), (&[16, 8, 4, 1, 0, 2, 0][..], 31, Some(1.0)));
    let above = exponential(1, (0, 0.0), (2, &[3]), (0, &[])).to_explicit();
    assert_eq!(
        (&*above.bounds, &*above.counts),
        (&[2.0, 2.0 * std::f64::consts::SQRT_2][..], &[0, 3, 0][..])
    );
}

/// Scenario: scales and offsets at the ends of their types, wide ranges, thousands of empty buckets.
/// Guarantees: what is kept is bounded, bounds rise and are finite, no value is lost.
#[test]
fn extremes_are_merged_down_and_lose_nothing() {
    let wide: Vec<u64> = (0..5_000).map(|at| u64::from(at % 7 == 0)).collect();
    let few: &[u64] = &[1, 1, 1];
    for scale in [i32::MIN, -1_000, -11, -4, 0, 8, 20, 21, 100, i32::MAX] {
        for offset in [i32::MIN, -70_000, -1, 0, 1, 70_000, i32::MAX] {
            for (positive, negative) in [(few, &[][..]), (&wide, few), (few, &wide)] {
                let message = message(scale, (1, 0.0), (offset, positive), (offset, negative), None);
                let view = ExponentialPointView::parse(&message).expect("a point");
                let Ok(mut histogram) = Exponential::read(&view) else {
                    assert!(scale < -1_000_000_000, "{scale} {offset}");
                    continue;
                };
                let other = exponential(3, (0, 0.0), (-5, &[1, 1]), (2, &[1]));
                for _ in 0..2 {
                    let sides = [&histogram.positive, &histogram.negative];
                    assert!(sides.iter().all(|side| side.counts.len() <= EXPONENTIAL_BUCKETS_MAX));
                    let Explicit { bounds, counts, count, .. } = histogram.to_explicit();
                    assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{scale} {offset} {bounds:?}");
                    assert!(bounds.iter().all(|bound| bound.is_finite()), "{scale} {offset}");
                    assert_eq!(
                        (counts.len(), counts.iter().sum()),
                        (bounds.len() + 1, count),
                        "{scale} {offset}"
                    );
                    histogram.add(&other);
                }
                assert_eq!(histogram.count, view.count + 6);
            }
        }
    }
}

/// Scenario: counts that are not what the point says, counts beyond 64 bits, thresholds that are none.
/// Guarantees: malformed.
#[test]
fn an_exponential_histogram_is_what_it_says() {
    for (count, counts, threshold) in [
        (4, &[1, 2][..], 0.0),
        (3, &[u64::MAX, 4][..], 0.0),
        (3, &[1, 2][..], -1.0),
        (3, &[1, 2][..], f64::NAN),
    ] {
        let mut out = Encoder::new();
        out.fixed64(4, count);
        out.message(8, |out| out.packed_varint(2, counts.iter().copied()));
        out.double(14, threshold);
        let view = ExponentialPointView::parse(out.as_bytes()).expect("a point");
        assert_eq!(Exponential::read(&view), Err(reason::MALFORMED), "{count} {threshold}");
    }
}
