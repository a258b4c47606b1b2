//! What a guest says of itself: log lines, counts, and what it prints.
//!
//! The texts of lines and counts stay in the guest's memory, which is paid for; they are read there once it is known that they will be
//! shown, and copied only as far. So a flood costs the guest its calls and its time, and the host nothing.

use std::borrow::Cow;
use std::time::Instant;

use tracing::{debug, error, info, trace, warn};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList, WasmStr};

use crate::grant::Secrets;
use crate::guest::{Guest, Identity};
use crate::meter::LABELS_MAX;
use crate::v1::weir::plugin::log::Level;

/// Bytes of a log line.
const LINE_BYTES_MAX: usize = 1024;

/// Fields of a log line.
const FIELDS_MAX: usize = 16;

/// Bytes of a field's name or value.
const FIELD_BYTES_MAX: usize = 256;

/// Names with values, in the guest's memory.
type Pairs = WasmList<(WasmStr, WasmStr)>;

/// One of them, still there.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

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
    let said = pairs(&mut store, &fields, FIELDS_MAX, |store, fields| {
        Ok(fields_of(fields, &store.data().powers.secrets))
    })?;
    let guest = store.data();
    let message = guest.powers.secrets.tame(&message.to_str(&store)?, LINE_BYTES_MAX);
    let Identity { plugin, id, .. } = &guest.identity;
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
    let fits = labels.len() <= LABELS_MAX;
    let taken = fits
        && pairs(&mut store, &labels, LABELS_MAX, |store, labels| {
            let Guest { identity, powers, .. } = store.data();
            Ok(identity.meter.add_without(&powers.secrets, &counter.to_str(store)?, value, labels))
        })?;
    if !taken {
        store.data().identity.counts.meter_suppressed.add(1);
    }
    Ok(())
}

/// The first `most` pairs as texts, and what becomes of them.
fn pairs<T>(
    store: &mut StoreContextMut<'_, Guest>,
    pairs: &Pairs,
    most: usize,
    wanted: impl FnOnce(&StoreContextMut<'_, Guest>, &[Pair<'_>]) -> wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    let found = (0..pairs.len().min(most)).map_while(|index| pairs.get(&mut *store, index));
    let found = found.collect::<wasmtime::Result<Vec<_>>>()?;
    let store = &*store;
    let texts = found.iter().map(|(name, value)| Ok((name.to_str(store)?, value.to_str(store)?)));
    wanted(store, &texts.collect::<wasmtime::Result<Vec<_>>>()?)
}

/// `a=1 b=2`, each part cut and tamed, without secrets.
fn fields_of(fields: &[Pair<'_>], secrets: &Secrets) -> String {
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
        let fields: Vec<_> = (0..3).map(|n| (format!("k{n}").into(), "a\nhunter2".into())).collect();
        let shown = fields_of(&fields, &Secrets::known(&["hunter2"]));
        assert_eq!(shown, r"k0=a\u{a}[secret] k1=a\u{a}[secret] k2=a\u{a}[secret]");
    }
}
