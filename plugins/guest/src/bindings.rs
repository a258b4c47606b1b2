//! Generated from `wit/plugin.wit`: one module for what the host offers, one for each interface that a plugin
//! may export.
//!
//! Each exported interface has a world of its own here, so that a plugin composes what it is; the linker
//! unites the worlds of a component. Authors meet these types through the crate's root and the macro of
//! `plugin.rs`; the modules are public because what the macro expands to stands in the author's crate.

#![expect(missing_docs, reason = "generated; documented in wit/plugin.wit")]

/// The interfaces that plugins import, and the types that they share with those that plugins export.
pub mod imports {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package weir:guest-imports;
            world imports {
                import weir:plugin/telemetry@1.0.0;
                import weir:plugin/outcomes@1.0.0;
                import weir:plugin/http-types@1.0.0;
                import weir:plugin/http-client@1.0.0;
                import weir:plugin/log@1.0.0;
                import weir:plugin/clock@1.0.0;
                import weir:plugin/meter@1.0.0;
            }
        ",
        world: "weir:guest-imports/imports",
        generate_all,
        additional_derives: [PartialEq],
        runtime_path: "wit_bindgen::rt",
    });
}

/// One exported interface. The imports are named so that its types are those of [`imports`]; what a component
/// does not use of them is not in it.
macro_rules! exported {
    ($module:ident, $path:literal, $world:literal, $inline:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../../wit",
                inline: $inline,
                world: $world,
                pub_export_macro: true,
                default_bindings_module: $path,
                runtime_path: "weir_guest::wit_bindgen::rt",
                with: {
                    "weir:plugin/telemetry@1.0.0": crate::bindings::imports::weir::plugin::telemetry,
                    "weir:plugin/outcomes@1.0.0": crate::bindings::imports::weir::plugin::outcomes,
                    "weir:plugin/http-types@1.0.0": crate::bindings::imports::weir::plugin::http_types,
                },
            });
        }
    };
}

exported!(
    plugin,
    "weir_guest::bindings::plugin",
    "weir:guest-plugin/is-plugin",
    "package weir:guest-plugin;
    world is-plugin {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/plugin@1.0.0;
    }"
);
exported!(
    exporter,
    "weir_guest::bindings::exporter",
    "weir:guest-exporter/is-exporter",
    "package weir:guest-exporter;
    world is-exporter {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/exporter@1.0.0;
    }"
);
exported!(
    page,
    "weir_guest::bindings::page",
    "weir:guest-page/is-page",
    "package weir:guest-page;
    world is-page {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/page@1.0.0;
    }"
);
exported!(
    http_receiver,
    "weir_guest::bindings::http_receiver",
    "weir:guest-http-receiver/is-http-receiver",
    "package weir:guest-http-receiver;
    world is-http-receiver {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/http-receiver@1.0.0;
    }"
);
exported!(
    datagram_receiver,
    "weir_guest::bindings::datagram_receiver",
    "weir:guest-datagram-receiver/is-datagram-receiver",
    "package weir:guest-datagram-receiver;
    world is-datagram-receiver {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/datagram-receiver@1.0.0;
    }"
);
exported!(
    grpc_receiver,
    "weir_guest::bindings::grpc_receiver",
    "weir:guest-grpc-receiver/is-grpc-receiver",
    "package weir:guest-grpc-receiver;
    world is-grpc-receiver {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/grpc-receiver@1.0.0;
    }"
);
exported!(
    scraper,
    "weir_guest::bindings::scraper",
    "weir:guest-scraper/is-scraper",
    "package weir:guest-scraper;
    world is-scraper {
        import weir:plugin/telemetry@1.0.0;
        import weir:plugin/outcomes@1.0.0;
        import weir:plugin/http-types@1.0.0;
        export weir:plugin/scraper@1.0.0;
    }"
);
