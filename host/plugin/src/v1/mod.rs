//! Bindings of `weir:plugin@1`, and nothing else: foreign types stop in this crate.
//!
//! One world of our own names every interface that the host knows, so that each is generated once; which of the
//! exports a component has is found out when it is loaded.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "weir:host/everything",
    inline: "
        package weir:host;

        world everything {
            import weir:plugin/http-client@1.0.0;
            import weir:plugin/log@1.0.0;
            import weir:plugin/clock@1.0.0;
            import weir:plugin/meter@1.0.0;
            export weir:plugin/plugin@1.0.0;
            export weir:plugin/exporter@1.0.0;
            export weir:plugin/page@1.0.0;
            export weir:plugin/http-receiver@1.0.0;
            export weir:plugin/datagram-receiver@1.0.0;
            export weir:plugin/grpc-receiver@1.0.0;
            export weir:plugin/scraper@1.0.0;
        }
    ",
    // Trappable: a guest that calls the host too often is ended in the call.
    imports: { default: trappable, "weir:plugin/http-client.send": async | trappable },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
