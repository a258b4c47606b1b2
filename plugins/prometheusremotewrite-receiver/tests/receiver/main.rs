//! The receiver from outside: bytes in, OTLP out.

mod doors;
mod hostile;
mod mapping;
mod text;
mod vectors;
