//! The receiver from outside: bytes in, OTLP out.

#[path = "../../../zipkin-receiver/tests/receiver/text.rs"]
mod text;

mod doors;
mod encode;
mod hostile;
mod mapping;
mod random;
mod vectors;
