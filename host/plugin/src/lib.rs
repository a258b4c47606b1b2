//! The plugin host: WebAssembly components seen through the model's contracts.
//!
//! | file | what it is |
//! |---|---|
//! | `host.rs` | [`Host`]: what the daemon calls; [`Part`]: one configured id |
//! | `load.rs`, `scan.rs`, `extent.rs` | find a plugin, look at its bytes, check names, versions, pin and to what it grows, compile |
//! | `cache.rs` | compiled code between starts, authenticated |
//! | `describe.rs`, `schema.rs` | what a plugin says about itself; the marks in its settings' schema; settings against it |
//! | `inspect.rs` | what `weir plugin inspect` shows |
//! | `engine.rs` | the engine, and the clock that interrupts guests |
//! | `limits.rs` | memory, tables, deadlines |
//! | `grant.rs` | all powers of a guest; secrets |
//! | `guest.rs`, `said.rs`, `meter.rs`, `stderr.rs` | the host side of an instance: its state and imports |
//! | `interfaces.rs` | the interfaces that the host calls, as far as a component has them |
//! | `instance.rs`, `instance/calls.rs`, `end.rs` | one instance, the calls into it, how it ended |
//! | `workers.rs` | threads for guests that compute for long |
//! | `pool.rs`, `quarantine.rs` | the instances of one id; an id that is kept from work |
//! | `slot.rs`, `promise.rs`, `watch.rs` | the code that serves an id now; what other code must keep to; the plugin folder, and how a new file takes over |
//! | `wanted.rs` | what an id may be: exporter, page, receiver, scraper |
//! | `as_exporter.rs`, `as_receiver.rs` | a plugin as the model knows it: instances for as many calls as come at once |
//! | `as_page.rs`, `as_scraper.rs` | the same, one pinned instance that remembers |
//! | `under_way.rs` | what all pages under way may hold of the memory |
//! | `ask.rs` | a call for somebody outside, who is told only whether to come again |
//! | `counts.rs` | what one id counts |
//! | `v1/`, `convert.rs` | generated bindings of `weir:plugin@1`, and conversion |
//! | `rate.rs`, `words.rs` | bounded logging of what guests say |
//!
//! Invariant: a guest reaches only what its grant lists, and whatever it does ends only its own instance.

pub mod as_exporter;
pub mod as_page;
pub mod as_receiver;
pub mod as_scraper;
mod ask;
pub mod cache;
mod convert;
pub mod counts;
pub mod describe;
pub mod end;
mod engine;
mod extent;
pub mod grant;
mod guest;
pub mod host;
pub mod inspect;
mod instance;
mod interfaces;
pub mod limits;
pub mod load;
pub mod meter;
mod pool;
mod promise;
pub mod quarantine;
mod rate;
mod said;
pub mod scan;
mod schema;
pub mod slot;
mod stderr;
mod under_way;
mod v1;
pub mod wanted;
pub mod watch;
mod words;
mod workers;

pub use as_exporter::PluginExporter;
pub use as_page::PluginPage;
pub use as_receiver::PluginReceiver;
pub use as_scraper::PluginScraper;
pub use counts::PluginCounts;
pub use describe::{Descriptor, Encoding, ListenKind, Listener, Marks, SettingsError};
pub use end::{End, EndKind};
pub use grant::Grants;
pub use host::{Host, HostError, HostSettings, Part, PartError};
pub use inspect::{Details, Inspection, Outside, Powers, Precompiled};
pub use limits::Limits;
pub use load::{Bundled, Digest, Found, LoadError, Loaded, Source};
pub use meter::{Meter, Series};
pub use pool::PoolSettings;
pub use quarantine::{QuarantineSettings, Quarantined};
pub use slot::{Released, SlotState, SlotView};
pub use wanted::Wanted;
