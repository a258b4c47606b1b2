//! The interfaces that this host calls, as far as a component has them.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::guest::Guest;
use crate::scan::Scan;
use crate::v1::exports::weir::plugin::{
    datagram_receiver, exporter, grpc_receiver, http_receiver, page, plugin, scraper,
};

/// Each interface has its own generated types; what is done with them is the same.
macro_rules! interfaces {
    ($($module:ident = $name:literal),+ $(,)?) => {
        /// Where a component has the functions of each interface.
        pub(crate) struct Indices {
            plugin: plugin::GuestIndices,
            $($module: Option<$module::GuestIndices>,)+
        }

        /// The functions of one instance. What the component does not export is absent.
        pub(crate) struct Interfaces {
            pub(crate) plugin: plugin::Guest,
            $(pub(crate) $module: Option<$module::Guest>,)+
        }

        impl Indices {
            /// Looks the functions up by name and checks their types.
            ///
            /// # Errors
            /// Where an interface that the component exports under our name is not ours.
            pub(crate) fn new(pre: &InstancePre<Guest>, scan: &Scan) -> wasmtime::Result<Self> {
                Ok(Self {
                    plugin: plugin::GuestIndices::new(pre)?,
                    $($module: scan.has($name).then(|| $module::GuestIndices::new(pre)).transpose()?,)+
                })
            }

            /// The functions of an instance of the same component.
            ///
            /// # Errors
            /// Where it is one of another component.
            pub(crate) fn load(&self, store: &mut Store<Guest>, made: &Instance) -> wasmtime::Result<Interfaces> {
                Ok(Interfaces {
                    plugin: self.plugin.load(&mut *store, made)?,
                    $($module: self.$module.as_ref().map(|at| at.load(&mut *store, made)).transpose()?,)+
                })
            }
        }

        /// Their names, beside `plugin`, which each plugin has.
        pub(crate) const NAMES: &[&str] = &[$($name),+];
    };
}

interfaces! {
    exporter = "exporter",
    page = "page",
    http_receiver = "http-receiver",
    datagram_receiver = "datagram-receiver",
    grpc_receiver = "grpc-receiver",
    scraper = "scraper",
}
