//! What an instance of a plugin may have, beside what all of them may have together.

use weir_model::ledger::guests_bytes_max;

use super::UNTIL_START;
use crate::config::scalar::ShownBytes;
use crate::config::{Config, Diagnostic, Problems, ServiceConfig};

/// Odd, and no error: an instance may never come near its limit. Where nobody wrote one there is nothing to say: what
/// plugins have together is then the smaller bound.
pub(super) fn memory(config: &Config, running: Option<&ServiceConfig>, problems: &Problems) {
    let wanted = config.service.memory.limit_bytes;
    let now = running.map_or(wanted, |running| running.memory.limit_bytes);
    let (memory, until) = if now < wanted { (now, UNTIL_START) } else { (wanted, "") };
    let most = guests_bytes_max(memory);
    for (kind, id, plugin) in config.plugins() {
        let asked = &plugin.limits.memory_bytes;
        if asked.at.is_none() || asked.value <= most {
            continue;
        }
        let path = format!("{}.{id}.limits.memory_mib", kind.key());
        // Twice as much, in whole MiB.
        let enough = asked.value.saturating_mul(2) >> 20;
        let (value, shown) = (ShownBytes(asked.value), ShownBytes(most));
        let message = format!(
            "{} `{id}` may have {value}, more than the {shown} that plugins together have{until}: lower its `memory_mib`, or raise \
             `service.memory.limit_mib` to {enough}",
            kind.noun()
        );
        let note = format!(
            "plugins together have half of `service.memory.limit_mib`, which is {}; an instance that wants more is ended",
            ShownBytes(memory)
        );
        let warning = Diagnostic::warning(asked.at, path, message);
        problems.push(warning.label(format!("expected at most {}", most >> 20)).note(note));
    }
}
