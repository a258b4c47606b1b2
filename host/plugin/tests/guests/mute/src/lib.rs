//! A guest that does not even say what it is.
//!
//! Invariant: traps in `describe`, before it has any settings.

use exports::weir::plugin::exporter::{Batch, Delivery, Guest as Exporter, Outcome};
use exports::weir::plugin::plugin::{Descriptor, Guest as Plugin, SettingsError};

wit_bindgen::generate!({
    path: "../../../../../wit",
    world: "weir:plugin/exporter-plugin",
    generate_all,
});

struct Mute;
export!(Mute);

impl Plugin for Mute {
    fn describe() -> Descriptor {
        silence()
    }

    fn configure(_: String) -> Result<(), Vec<SettingsError>> {
        Ok(())
    }
}

impl Exporter for Mute {
    fn push(_: Batch, _: Delivery) -> Outcome {
        Outcome::Accepted
    }
}

#[inline(never)]
fn silence() -> ! {
    panic!("not a word");
}
