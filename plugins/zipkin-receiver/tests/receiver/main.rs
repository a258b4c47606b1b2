//! The receiver as its senders and the host see it.
//!
//! | module | what it shows |
//! |---|---|
//! | `vectors.rs` | what real senders have sent |
//! | `mapping.rs` | each rule of the mapping, by small cases |
//! | `calls.rs` | v1's ends of calls |
//! | `http.rs` | paths, methods, content types, answers |
//! | `round_trip.rs` | through the exporter and back |
//! | `random.rs` | bytes that nobody would send |

mod calls;
mod http;
mod mapping;
mod random;
mod round_trip;
mod text;
mod thrift;
mod vectors;
