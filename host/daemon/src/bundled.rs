//! Plugins that are part of the program, built from `plugins/` by the build script.

use weir_plugin::Bundled;

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
