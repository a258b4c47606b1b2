//! The kinds of plugins, as traits, and the macro that makes a component of an implementation.
//!
//! The types beside the traits mirror records that only exported interfaces have: a world's bindings bring
//! their own copy of those, and an author should not have to care which.

use serde::de::DeserializeOwned;

use crate::bindings::imports::weir::plugin::log::Level;
use crate::{Batch, Delivery, Encoding, Outcome, Request, Response, Signal, host, settings};

/// What the host must know of a plugin before it runs it.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// Name of the plugin, as a person would write it in a configuration: `zipkin-exporter`.
    pub name: &'static str,
    /// Version of the plugin: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One sentence for `weir plugin list`.
    pub description: &'static str,
    /// What it takes or gives.
    pub signals: Vec<Signal>,
    /// How batches are handed to it; receivers say what they hand over.
    pub encoding: Encoding,
    /// JSON Schema of the settings, with the `x-weir` marks of `wit/plugin.wit`.
    pub settings_schema: &'static str,
    /// Room to grow; unknown keys are ignored.
    pub extra: Vec<(String, String)>,
}

/// A fault in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// JSON pointer into the settings; empty for the settings as a whole.
    pub at: String,
    /// What was found, what is expected.
    pub message: String,
}

/// What every plugin is.
pub trait Plugin: Sized + 'static {
    /// What an operator may write. Keys that nobody reads are refused, also without `deny_unknown_fields`.
    type Settings: DeserializeOwned;

    /// Says what the plugin is; runs in an instance that can reach nothing.
    fn describe() -> Descriptor;

    /// Makes the plugin of its settings; runs once in each instance, before any other call.
    ///
    /// # Errors
    /// Every fault that serde could not see.
    fn configure(settings: Self::Settings) -> Result<Self, Vec<SettingsFault>>;
}

/// A plugin that hands batches to a backend. The host runs several instances of it, and any of them gets any
/// batch.
pub trait Exporter: Plugin {
    /// Delivers a batch and says how that went. Queue, order, back-off and repetition are the host's.
    fn push(&mut self, batch: Batch, delivery: Delivery) -> Outcome;
}

/// A plugin that is fetched from: one instance, which keeps state.
pub trait Page: Plugin {
    /// Takes a batch into the state.
    fn absorb(&mut self, batch: Batch, delivery: Delivery) -> Outcome;

    /// Answers a request from the state.
    fn serve(&mut self, request: Request) -> Response;

    /// The rest of the last body, at most 1 MiB a piece; empty at the end.
    fn more(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// A plugin that turns HTTP requests into batches: a pure function.
pub trait HttpReceiver: Plugin {
    /// `listener` is the name of the setting that bound the address.
    fn receive(&mut self, listener: &str, request: Request) -> Answer;
}

/// A plugin that turns datagrams into batches: a pure function.
pub trait DatagramReceiver: Plugin {
    /// `listener` is the name of the setting that bound the address.
    ///
    /// # Errors
    /// Why the datagram is not valid; the host counts it.
    fn receive(&mut self, listener: &str, datagram: Vec<u8>) -> Result<Vec<Batch>, String>;
}

/// A plugin that turns unary gRPC calls into batches: a pure function.
pub trait GrpcReceiver: Plugin {
    /// One call: `method` is the full path, `message` comes without its gRPC frame.
    ///
    /// # Errors
    /// The status to answer with.
    fn receive(
        &mut self,
        listener: &str,
        method: &str,
        metadata: &[(String, String)],
        message: Vec<u8>,
    ) -> Result<GrpcReceived, GrpcStatus>;
}

/// A plugin that turns what the host has fetched into batches; the same target always meets the same
/// instance.
pub trait Scraper: Plugin {
    /// What to ask a target.
    fn prepare(&mut self, target: Target) -> Request;

    /// Batches of what it answered.
    fn digest(&mut self, target: Target, fetched: Fetched) -> Vec<Batch>;

    /// The target has left the configuration: its last staleness markers. `at` is in nanoseconds since the
    /// Unix epoch.
    fn forget(&mut self, target: Target, at: u64) -> Vec<Batch>;
}

/// A request that carried telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// What it carried.
    pub batches: Vec<Batch>,
    /// Items of the request that are not in the batches because they are not valid.
    pub rejected: u32,
    /// Sent once the pipeline has taken every batch.
    pub accepted: Response,
    /// Sent when the pipeline refuses for now; the host adds `Retry-After`.
    pub refused: Response,
}

/// What a receiver makes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Telemetry: the host answers when the pipeline has.
    Telemetry(Received),
    /// Not valid, or no telemetry at all.
    Reply(Response),
}

/// A gRPC call that carried telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcReceived {
    /// What it carried.
    pub batches: Vec<Batch>,
    /// Items of the message that are not in the batches because they are not valid.
    pub rejected: u32,
    /// The response message, sent once the pipeline has taken every batch.
    pub reply: Vec<u8>,
}

/// A gRPC status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcStatus {
    /// The number of the code, 1 to 16.
    pub code: u32,
    /// For a person.
    pub message: String,
}

/// What a scraper is asked to fetch.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name of the scrape configuration that it comes from.
    pub job: String,
    /// Full URL.
    pub url: String,
    /// Labels of the target after relabelling, sorted by name.
    pub labels: Vec<(String, String)>,
}

/// What the host has fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// When, in nanoseconds since the Unix epoch.
    pub at: u64,
    /// How long it took, in nanoseconds.
    pub took: u64,
    /// The answer, or why there is none.
    pub answer: Result<Response, String>,
}

/// Reads the settings and makes the plugin.
///
/// # Errors
/// Every fault found.
pub fn configure<P: Plugin>(settings: &str) -> Result<P, Vec<SettingsFault>> {
    P::configure(settings::read(settings)?)
}

/// From here on a panic is logged by the host before it ends the instance.
pub fn announce_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        host::log(
            Level::Error,
            &format!("plugin panics: {}", panic.payload_as_str().unwrap_or("?")),
            &[("at", &place)],
        );
    }));
}

/// Makes a component of a type that implements [`Plugin`](crate::Plugin) and the traits of the kinds that are
/// named:
///
/// ```ignore
/// weir_guest::export!(Mine: exporter);
/// weir_guest::export!(Yours: http_receiver, datagram_receiver, grpc_receiver);
/// ```
///
/// Kinds are `exporter`, `page`, `http_receiver`, `datagram_receiver`, `grpc_receiver` and `scraper`. Off
/// WebAssembly the macro does nothing, so that the crate can be tested.
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($kind:ident),+ $(,)?) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::__export_kind!(plugin, $plugin);
            $($crate::__export_kind!($kind, $plugin);)+
        };
    };
}

/// One exported interface of a component; `plugin` also makes the one instance that the others are called on.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_kind {
    (plugin, $plugin:ty) => {
        struct Component;

        // A component has one thread. The cell is only ever borrowed by one call, since the host calls one at
        // a time and no import calls back.
        ::std::thread_local! {
            static INSTANCE: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                const { ::std::cell::RefCell::new(::std::option::Option::None) };
        }

        fn with_instance<R>(call: impl FnOnce(&mut $plugin) -> R) -> R {
            INSTANCE.with_borrow_mut(|instance| {
                call(instance.as_mut().expect("the host configures an instance before any other call"))
            })
        }

        impl $crate::bindings::plugin::exports::weir::plugin::plugin::Guest for Component {
            fn describe() -> $crate::bindings::plugin::exports::weir::plugin::plugin::Descriptor {
                $crate::announce_panics();
                let $crate::Descriptor { name, version, description, signals, encoding, settings_schema, extra } =
                    <$plugin as $crate::Plugin>::describe();
                $crate::bindings::plugin::exports::weir::plugin::plugin::Descriptor {
                    name: name.into(),
                    version: version.into(),
                    description: description.into(),
                    signals,
                    encoding,
                    settings_schema: settings_schema.into(),
                    extra,
                }
            }

            fn configure(
                settings: ::std::string::String,
            ) -> ::std::result::Result<
                (),
                ::std::vec::Vec<$crate::bindings::plugin::exports::weir::plugin::plugin::SettingsError>,
            > {
                use $crate::bindings::plugin::exports::weir::plugin::plugin::SettingsError;
                $crate::announce_panics();
                let plugin = $crate::configure::<$plugin>(&settings).map_err(|faults| {
                    let error = |$crate::SettingsFault { at, message }| SettingsError { at, message };
                    faults.into_iter().map(error).collect::<::std::vec::Vec<_>>()
                })?;
                INSTANCE.set(::std::option::Option::Some(plugin));
                Ok(())
            }
        }

        $crate::bindings::plugin::export!(Component with_types_in $crate::bindings::plugin);
    };

    (exporter, $plugin:ty) => {
        impl $crate::bindings::exporter::exports::weir::plugin::exporter::Guest for Component {
            fn push(batch: $crate::Batch, delivery: $crate::Delivery) -> $crate::Outcome {
                with_instance(|plugin| $crate::Exporter::push(plugin, batch, delivery))
            }
        }

        $crate::bindings::exporter::export!(Component with_types_in $crate::bindings::exporter);
    };

    (page, $plugin:ty) => {
        impl $crate::bindings::page::exports::weir::plugin::page::Guest for Component {
            fn absorb(batch: $crate::Batch, delivery: $crate::Delivery) -> $crate::Outcome {
                with_instance(|plugin| $crate::Page::absorb(plugin, batch, delivery))
            }

            fn serve(request: $crate::Request) -> $crate::Response {
                with_instance(|plugin| $crate::Page::serve(plugin, request))
            }

            fn more() -> ::std::vec::Vec<u8> {
                with_instance($crate::Page::more)
            }
        }

        $crate::bindings::page::export!(Component with_types_in $crate::bindings::page);
    };

    (http_receiver, $plugin:ty) => {
        impl $crate::bindings::http_receiver::exports::weir::plugin::http_receiver::Guest for Component {
            fn receive(
                listener: ::std::string::String,
                request: $crate::Request,
            ) -> $crate::bindings::http_receiver::exports::weir::plugin::http_receiver::Answer {
                use $crate::bindings::http_receiver::exports::weir::plugin::http_receiver as wit;
                match with_instance(|plugin| $crate::HttpReceiver::receive(plugin, &listener, request)) {
                    $crate::Answer::Telemetry($crate::Received { batches, rejected, accepted, refused }) => {
                        wit::Answer::Telemetry(wit::Received { batches, rejected, accepted, refused })
                    }
                    $crate::Answer::Reply(response) => wit::Answer::Reply(response),
                }
            }
        }

        $crate::bindings::http_receiver::export!(Component with_types_in $crate::bindings::http_receiver);
    };

    (datagram_receiver, $plugin:ty) => {
        impl $crate::bindings::datagram_receiver::exports::weir::plugin::datagram_receiver::Guest for Component {
            fn receive(
                listener: ::std::string::String,
                datagram: ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<::std::vec::Vec<$crate::Batch>, ::std::string::String> {
                with_instance(|plugin| $crate::DatagramReceiver::receive(plugin, &listener, datagram))
            }
        }

        $crate::bindings::datagram_receiver::export!(Component with_types_in $crate::bindings::datagram_receiver);
    };

    (grpc_receiver, $plugin:ty) => {
        impl $crate::bindings::grpc_receiver::exports::weir::plugin::grpc_receiver::Guest for Component {
            fn receive(
                listener: ::std::string::String,
                method: ::std::string::String,
                metadata: $crate::Headers,
                message: ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<
                $crate::bindings::grpc_receiver::exports::weir::plugin::grpc_receiver::Received,
                $crate::bindings::grpc_receiver::exports::weir::plugin::grpc_receiver::Status,
            > {
                use $crate::bindings::grpc_receiver::exports::weir::plugin::grpc_receiver as wit;
                with_instance(|plugin| {
                    $crate::GrpcReceiver::receive(plugin, &listener, &method, &metadata, message)
                })
                .map(|$crate::GrpcReceived { batches, rejected, reply }| wit::Received { batches, rejected, reply })
                .map_err(|$crate::GrpcStatus { code, message }| wit::Status { code, message })
            }
        }

        $crate::bindings::grpc_receiver::export!(Component with_types_in $crate::bindings::grpc_receiver);
    };

    (scraper, $plugin:ty) => {
        impl $crate::bindings::scraper::exports::weir::plugin::scraper::Guest for Component {
            fn prepare(
                target: $crate::bindings::scraper::exports::weir::plugin::scraper::Target,
            ) -> $crate::Request {
                let target = $crate::Target { job: target.job, url: target.url, labels: target.labels };
                with_instance(|plugin| $crate::Scraper::prepare(plugin, target))
            }

            fn digest(
                target: $crate::bindings::scraper::exports::weir::plugin::scraper::Target,
                fetched: $crate::bindings::scraper::exports::weir::plugin::scraper::Fetched,
            ) -> ::std::vec::Vec<$crate::Batch> {
                let target = $crate::Target { job: target.job, url: target.url, labels: target.labels };
                let fetched = $crate::Fetched { at: fetched.at, took: fetched.took, answer: fetched.answer };
                with_instance(|plugin| $crate::Scraper::digest(plugin, target, fetched))
            }

            fn forget(
                target: $crate::bindings::scraper::exports::weir::plugin::scraper::Target,
                at: u64,
            ) -> ::std::vec::Vec<$crate::Batch> {
                let target = $crate::Target { job: target.job, url: target.url, labels: target.labels };
                with_instance(|plugin| $crate::Scraper::forget(plugin, target, at))
            }
        }

        $crate::bindings::scraper::export!(Component with_types_in $crate::bindings::scraper);
    };
}
