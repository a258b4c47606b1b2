//! Text from a guest, made fit for a log: cut to a length, without control characters.

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends with a whole character.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    &text[..text.floor_char_boundary(bytes_max)]
}

/// `text` cut to `bytes_max` bytes, control characters escaped, an ellipsis where something is missing.
pub(crate) fn tame(text: &str, bytes_max: usize) -> String {
    let kept = cut(text, bytes_max);
    let mut tamed = String::with_capacity(kept.len());
    for character in kept.chars() {
        if is_harmful(character) {
            tamed.extend(character.escape_unicode());
        } else {
            tamed.push(character);
        }
    }
    if kept.len() < text.len() {
        tamed.push('…');
    }
    tamed
}

/// Control characters, and those that turn the direction of what follows.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: text with terminal escapes, line breaks, a direction override, and too much of it.
    /// Guarantees: one harmless line, cut between characters.
    #[test]
    fn a_guests_text_can_not_write_lines_or_colours() {
        assert_eq!(tame("a\n\u{1b}[31mb\u{202e}c", 100), "a\\u{a}\\u{1b}[31mb\\u{202e}c");
        assert_eq!(tame("ääää", 5), "ää…");
        assert_eq!(tame("whole", 5), "whole");
    }
}
