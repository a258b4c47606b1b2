//! The network's edge: listeners, TLS, limits, decompression, gRPC framing, and the one client.
//!
//! | file | what it is |
//! |---|---|
//! | `limits.rs`, `duration.rs` | named defaults of everything that listens, and what a user may set |
//! | `listen.rs`, `stream.rs` | addresses bound at once and served later, HTTP/1.1 and HTTP/2 on each |
//! | `datagrams.rs` | addresses of datagrams, bound at once and read later |
//! | `windows.rs` | what the peers of HTTP/2 connections may send unread |
//! | `tls.rs`, `tls/live.rs` | TLS of listeners: files that are read again, live connections that are cut |
//! | `certificate.rs`, `material.rs` | what a certificate says, and the files of all of them |
//! | `drain.rs` | the word that it is time to stop |
//! | `budget.rs` | claims on the ledger, with a reserve for small senders |
//! | `body.rs`, `pace.rs` | an HTTP body as one piece: paid, limited, in time |
//! | `decompress.rs` | the one way from encoded bytes to decoded ones |
//! | `grpc.rs`, `rpc_status.rs` | the server half of gRPC, for messages that stay bytes |
//! | `open_stream.rs` | streams that stay open, counted and paid for |
//! | `reply.rs` | the body of every reply |
//! | `pieces.rs` | one that is there in several pieces, packed by gzip where the peer takes it |
//! | `client.rs`, `address.rs`, `roots.rs` | the one HTTP client, what it may reach, whom it trusts |
//! | `client_tls.rs`, `secured.rs` | the same while files change: connections made and judged by what they hold now |
//! | `listed.rs`, `client/targets.rs` | the same for targets that are fetched from: many, and listed |
//! | `credential.rs` | what it says of itself, read again when it changes |
//! | `grpc_client.rs` | unary gRPC calls that send bytes untouched |
//!
//! Invariant: no byte from the network is kept before it is paid for, and none is waited for without end.

pub mod address;
pub mod body;
pub mod budget;
pub mod certificate;
pub mod client;
pub mod client_tls;
pub mod credential;
pub mod datagrams;
pub mod decompress;
pub mod drain;
pub mod duration;
pub mod grpc;
pub mod grpc_client;
pub mod limits;
pub mod listed;
pub mod listen;
mod material;
pub mod open_stream;
mod pace;
pub mod pieces;
pub mod reply;
pub mod roots;
pub mod rpc_status;
mod secured;
mod stream;
pub mod tls;
mod windows;

pub use drain::Drain;
pub use pace::Slow;
pub use reply::ReplyBody;
