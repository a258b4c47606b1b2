//! What a guest says of itself: log lines, counts, and what it prints.
//!
//! The texts of lines and counts stay in the guest's memory, which is paid for; they are read there once it is known that
//! they will be shown, one after the other, and copied only as far. A flood costs the guest its calls and its time: reading
//! looks at a text whole, to see that it is one, so a long one costs several calls. What the host pays is one text at a
//! time, and only for components that do not keep their texts in UTF-8: it is converted whole, of at most
//! [`HANDOVER_BYTES_MAX`](crate::limits::HANDOVER_BYTES_MAX).

use std::time::Instant;

use tracing::{debug, error, info, trace, warn};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList, WasmStr};

use crate::grant::Secrets;
use crate::guest::{Guest, Identity};
use crate::meter::{LABELS_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX};
use crate::v1::weir::plugin::log::Level;

/// Bytes of a log line.
const LINE_BYTES_MAX: usize = 1024;

/// Fields of a log line.
const FIELDS_MAX: usize = 16;

/// Bytes of a field's name or value.
const FIELD_BYTES_MAX: usize = 256;

/// Bytes of a text that cost as much as a call: more than what is shown of any.
const CALL_BYTES: usize = 4 * 1024;

/// Names with values, in the guest's memory.
type Pairs = WasmList<(WasmStr, WasmStr)>;

/// Links `log` and `meter`. By hand, since bindings would copy every text before the host is asked.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance("weir:plugin/log@1.0.0")?.func_wrap("write", write)?;
    linker.instance("weir:plugin/meter@1.0.0")?.func_wrap("add", add)
}

/// Logs what a guest has printed in a call that went well: its log, for those that know no other.
pub(crate) fn tell_printed(guest: &mut Guest) {
    if !guest.powers.log {
        return;
    }
    let lines = guest.stderr.lines(&guest.powers.secrets);
    let now = Instant::now();
    let (count, passed) = (lines.len(), lines.iter().take_while(|_| guest.lines.take(now)).count());
    guest.identity.counts.log_lines_suppressed.add((count - passed) as u64);
    let Identity { plugin, id, .. } = &guest.identity;
    // The last ones: what was printed before them may be forgotten anyway.
    for line in &lines[count - passed..] {
        info!(%plugin, %id, "printed: {line}");
    }
}

fn write(
    mut store: StoreContextMut<'_, Guest>,
    (level, message, fields): (Level, WasmStr, Pairs),
) -> wasmtime::Result<()> {
    let guest = store.data_mut();
    guest.charge()?;
    if !guest.powers.log {
        return Ok(());
    }
    if !guest.lines.take(Instant::now()) {
        guest.identity.counts.log_lines_suppressed.add(1);
        return Ok(());
    }
    let fields = pairs(&mut store, &fields, FIELDS_MAX, FIELD_BYTES_MAX, FIELD_BYTES_MAX)?;
    let message = read(&mut store, &message, LINE_BYTES_MAX)?;
    let Guest { identity, powers, .. } = store.data();
    let (said, message) =
        (fields_of(&fields, &powers.secrets), powers.secrets.tame(&message, LINE_BYTES_MAX));
    let Identity { plugin, id, .. } = identity;
    match level {
        Level::Trace => trace!(%plugin, %id, said, "{message}"),
        Level::Debug => debug!(%plugin, %id, said, "{message}"),
        Level::Info => info!(%plugin, %id, said, "{message}"),
        Level::Warn => warn!(%plugin, %id, said, "{message}"),
        Level::Error => error!(%plugin, %id, said, "{message}"),
    }
    Ok(())
}

fn add(
    mut store: StoreContextMut<'_, Guest>,
    (counter, value, labels): (WasmStr, u64, Pairs),
) -> wasmtime::Result<()> {
    store.data_mut().charge()?;
    let taken = labels.len() <= LABELS_MAX && {
        let counter = read(&mut store, &counter, NAME_BYTES_MAX)?;
        let labels = pairs(&mut store, &labels, LABELS_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX)?;
        let Guest { identity, powers, .. } = store.data();
        identity.meter.add_without(&powers.secrets, &counter, value, &labels)
    };
    if !taken {
        store.data().identity.counts.meter_suppressed.add(1);
    }
    Ok(())
}

/// The first `most` pairs, as much of each as [`read`] takes.
fn pairs(
    store: &mut StoreContextMut<'_, Guest>,
    pairs: &Pairs,
    most: usize,
    name_bytes_max: usize,
    value_bytes_max: usize,
) -> wasmtime::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for index in 0..pairs.len().min(most) {
        let Some(found) = pairs.get(&mut *store, index) else { break };
        let (name, value) = found?;
        texts.push((read(store, &name, name_bytes_max)?, read(store, &value, value_bytes_max)?));
    }
    Ok(texts)
}

/// As much of a text as is needed to show `bytes_max` of it; the guest is charged for all of it.
fn read(
    store: &mut StoreContextMut<'_, Guest>,
    text: &WasmStr,
    bytes_max: usize,
) -> wasmtime::Result<String> {
    let whole = text.to_str(&*store)?;
    let bytes = whole.len();
    let kept = store.data().secrets().window(&whole, bytes_max).to_owned();
    drop(whole);
    store.data_mut().charge_calls((bytes / CALL_BYTES) as u64)?;
    Ok(kept)
}

/// `a=1 b=2`, each part cut and tamed, without secrets.
fn fields_of(fields: &[(String, String)], secrets: &Secrets) -> String {
    let tame = |text: &str| secrets.tame(text, FIELD_BYTES_MAX);
    let shown = fields.iter().map(|(name, value)| format!("{}={}", tame(name), tame(value)));
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: fields with line breaks and a secret.
    /// Guarantees: one line without the secret.
    #[test]
    fn fields_stay_in_their_line() {
        let fields: Vec<_> = (0..3).map(|n| (format!("k{n}"), "a\nhunter2".to_owned())).collect();
        let shown = fields_of(&fields, &Secrets::known(&["hunter2"]));
        assert_eq!(shown, r"k0=a\u{a}[secret] k1=a\u{a}[secret] k2=a\u{a}[secret]");
    }
}
