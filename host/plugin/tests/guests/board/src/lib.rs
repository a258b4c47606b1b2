//! A guest that is fetched from: it keeps what it was last given and shows it, in several pieces.
//!
//! | path | page |
//! |---|---|
//! | `/metrics` | a line of figures, then what can be read in each batch, the oldest first; a piece each |
//! | `/lines/BYTES` | so many bytes of numbered lines |
//! | `/trap` | none: the instance ends |
//! | another | 404 |
//!
//! Invariant: keeps [`KEPT_MAX`] batches and no more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use exports::weir::plugin::page::{Batch, Delivery, Guest as Page, Outcome, Request, Response};
use exports::weir::plugin::plugin::{Descriptor, Encoding, Guest as Plugin, SettingsError, Signal};

wit_bindgen::generate!({
    path: "../../../../../wit",
    world: "weir:plugin/page-plugin",
    generate_all,
});

struct Board;
export!(Board);

/// Batches that are kept.
const KEPT_MAX: usize = 1000;

/// Bytes of a piece of a long page.
const PIECE_BYTES: usize = 700_000;

/// Texts that are shorter are not shown: most are no texts.
const TEXT_BYTES_MIN: usize = 4;

const SCHEMA: &str = r#"{
    "type": "object", "additionalProperties": false, "required": ["endpoint"],
    "properties": {
        "endpoint": {"type": "string", "x-weir": {"listen": "http", "name": "main"}},
        "title": {"type": "string"}
    }
}"#;

/// What is on the board, and what is left of the page that is fetched now.
struct State {
    taken: u64,
    items: u64,
    kept: VecDeque<String>,
    rest: Rest,
}

enum Rest {
    Pieces(VecDeque<String>),
    /// The number of the next line, and bytes that are left.
    Lines(u64, usize),
}

static STATE: Mutex<State> =
    Mutex::new(State { taken: 0, items: 0, kept: VecDeque::new(), rest: Rest::Lines(0, 0) });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugin for Board {
    fn describe() -> Descriptor {
        Descriptor {
            name: "board".into(),
            version: "1.0.0".into(),
            description: "shows what it was last given".into(),
            signals: vec![Signal::Traces, Signal::Metrics, Signal::Logs],
            encoding: Encoding::Protobuf,
            settings_schema: SCHEMA.into(),
            extra: vec![],
        }
    }

    fn configure(_: String) -> Result<(), Vec<SettingsError>> {
        Ok(())
    }
}

impl Page for Board {
    fn absorb(batch: Batch, delivery: Delivery) -> Outcome {
        let mut state = state();
        state.taken += 1;
        state.items += u64::from(delivery.items);
        if state.kept.len() == KEPT_MAX {
            state.kept.pop_front();
        }
        state.kept.push_back(texts(&batch.body));
        Outcome::Accepted
    }

    fn serve(request: Request) -> Response {
        let mut state = state();
        let bytes = request.target.strip_prefix("/lines/").and_then(|bytes| bytes.parse().ok());
        state.rest = match (request.target.as_str(), bytes) {
            ("/trap", _) => unreachable_by_design(),
            ("/metrics", _) => {
                let head = format!("batches {} items {}\n", state.taken, state.items);
                Rest::Pieces([head].into_iter().chain(state.kept.iter().cloned()).collect())
            }
            (_, Some(bytes)) => Rest::Lines(0, bytes),
            _ => Rest::Lines(0, 0),
        };
        let status = if request.target == "/metrics" || bytes.is_some() { 200 } else { 404 };
        let headers = vec![("content-type".into(), "text/plain; version=0.0.4".into())];
        Response { status, headers, body: state.rest.next() }
    }

    fn more() -> Vec<u8> {
        state().rest.next()
    }
}

impl Rest {
    fn next(&mut self) -> Vec<u8> {
        match self {
            Self::Pieces(pieces) => pieces.pop_front().unwrap_or_default().into_bytes(),
            Self::Lines(number, left) => {
                let mut piece = Vec::new();
                while piece.len() < PIECE_BYTES && *left > 0 {
                    let line = format!("line {number}\n");
                    let length = line.len().min(*left);
                    piece.extend_from_slice(&line.as_bytes()[..length]);
                    (*number, *left) = (*number + 1, *left - length);
                }
                piece
            }
        }
    }
}

/// What can be read in a body, on one line.
fn texts(body: &[u8]) -> String {
    let texts = body.split(|byte| !byte.is_ascii_graphic()).filter(|text| text.len() >= TEXT_BYTES_MIN);
    let texts: Vec<_> = texts.map(String::from_utf8_lossy).collect();
    format!("{}\n", texts.join(" "))
}

#[inline(never)]
fn unreachable_by_design() -> ! {
    panic!("by design");
}
