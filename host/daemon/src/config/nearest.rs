//! The known name that a user may have meant.

/// Characters of a name that are compared. Ours are shorter; the file's may be anything.
const COMPARED_CHARS_MAX: usize = 64;

/// The candidate nearest to `wrong`, if it is near enough to be what was meant.
pub(crate) fn nearest<'c>(wrong: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if wrong.is_empty() {
        return None;
    }
    let wrong = folded(wrong);
    let allowed = (wrong.len() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let known = folded(candidate);
            // A beginning counts as near: `verb` means `verbosity`.
            let begun = wrong.len() >= 3 && known.starts_with(&wrong);
            let distance = if begun { 1 } else { distance(&wrong, &known) };
            (distance <= allowed).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and the choice between `-` and `_` are no difference worth counting.
fn folded(name: &str) -> Vec<char> {
    name.chars()
        .take(COMPARED_CHARS_MAX)
        .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wrong: &str, expected: Option<&str>) {
        let known = ["endpoint", "tls", "limits", "max_interval", "verbosity", "http", "grpc"];
        assert_eq!(nearest(wrong, known), expected, "for {wrong:?}");
    }

    /// Scenario: slips of the hand, another spelling of a word break, a beginning, and names from elsewhere.
    /// Guarantees: a slip finds its name, and nothing far away is suggested.
    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        check("endpont", Some("endpoint"));
        check("endpiont", Some("endpoint"));
        check("Endpoint", Some("endpoint"));
        check("max-interval", Some("max_interval"));
        check("verb", Some("verbosity"));
        check("tsl", Some("tls"));
        check("htp", Some("http"));
        check("sampling", None);
        check("x", None);
        check("", None);
    }

    /// Scenario: pairs with a known number of edits.
    /// Guarantees: the distance is that number, in both directions.
    #[test]
    fn the_distance_counts_edits_and_swaps() {
        for (a, b, expected) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("same", "same", 0)]
        {
            assert_eq!(distance(&folded(a), &folded(b)), expected, "{a} to {b}");
            assert_eq!(distance(&folded(b), &folded(a)), expected, "{b} to {a}");
        }
    }

    /// Scenario: a name of a megabyte.
    /// Guarantees: it costs no more than a short one.
    #[test]
    fn a_huge_name_is_compared_by_its_beginning() {
        assert_eq!(nearest(&"e".repeat(1 << 20), ["endpoint"]), None);
    }
}
