//! What a series may be, in the words of Prometheus (`prometheus/scrape/scrape.go`, `verifyLabelLimits`).

use crate::settings::{Job, Limits};

/// What is shown of a name or value in a message.
const SHOWN_CHARS_MAX: usize = 50;

/// Holds a series against a job's limits; `hidden` is the number of its labels that are not in `labels`.
///
/// # Errors
/// Which one it exceeds: the whole scrape fails.
pub(crate) fn check(job: &Job, name: &str, labels: &[(&str, &str)], hidden: usize) -> Result<(), String> {
    if job.has_plain_names && !is_plain(name, true) {
        return Err(format!("invalid metric name: {:?}", shown(name)));
    }
    let Limits { samples: _, labels: most, name_bytes, value_bytes } = job.limits;
    let count = labels.len() + hidden + 1;
    if most > 0 && count > most {
        return Err(format!(
            "label_limit exceeded (metric: {}, number of labels: {count}, limit: {most})",
            shown(name)
        ));
    }
    if !job.has_plain_names && name_bytes == 0 && value_bytes == 0 {
        return Ok(());
    }
    for (label, value) in [("__name__", name)].iter().chain(labels) {
        if job.has_plain_names && !is_plain(label, false) {
            return Err(format!("invalid label name: {:?}", shown(label)));
        }
        if name_bytes > 0 && label.len() > name_bytes {
            return Err(format!(
                "label_name_length_limit exceeded (metric: {}, label name: {}, length: {}, limit: {name_bytes})",
                shown(name),
                shown(label),
                label.len()
            ));
        }
        if value_bytes > 0 && value.len() > value_bytes {
            return Err(format!(
                "label_value_length_limit exceeded (metric: {}, label name: {}, value: {:?}, length: {}, \
                 limit: {value_bytes})",
                shown(name),
                shown(label),
                shown(value),
                value.len()
            ));
        }
    }
    Ok(())
}

fn shown(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// Letters, digits and underscores; colons in names of metrics.
fn is_plain(name: &str, is_metric: bool) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (is_metric && byte == b':');
    name.bytes().all(fits) && !name.starts_with(|first: char| first.is_ascii_digit())
}
