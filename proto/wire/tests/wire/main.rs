//! The wire against an oracle, against recorded requests, against hostile bytes, and in cases that read as
//! text.

mod differential;
mod hostile;
mod invent;
mod json_cases;
mod notation;
mod oracle;
mod splice_cases;
mod through_views;
mod vectors;
mod view_cases;
