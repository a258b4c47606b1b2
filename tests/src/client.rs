//! Clients from below: what they send is the test's, byte by byte.

mod grpc;
mod http;

pub use self::grpc::{Grpc, GrpcStream, Outcome, Status, frame};
pub use self::http::HttpClient;
