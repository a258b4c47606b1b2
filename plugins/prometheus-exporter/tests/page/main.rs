//! The page from outside: batches in, texts out.

mod fetch;
mod invented;
mod round_trip;
mod vectors;
