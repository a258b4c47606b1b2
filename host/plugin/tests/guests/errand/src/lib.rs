//! A guest with a WASI that tries its doors and reports what was behind them.
//!
//! Invariant: does nothing that its settings or a delivery's id do not ask for.

use std::sync::{Mutex, PoisonError};

use exports::weir::plugin::exporter::{Batch, Delivery, Guest as Exporter, Outcome};
use exports::weir::plugin::plugin::{Descriptor, Encoding, Guest as Plugin, SettingsError, Signal};

wit_bindgen::generate!({
    path: ["../../../../../wit", "wit"],
    world: "weir:errand/errand",
    generate_all,
});

struct Errand;
export!(Errand);

static SETTINGS: Mutex<String> = Mutex::new(String::new());

/// Whether it sleeps before it describes itself; tests write `hour` into the component.
const NAP: &str = "nap-to-describe:none";

impl Plugin for Errand {
    fn describe() -> Descriptor {
        if std::hint::black_box(NAP).ends_with("hour") {
            wasi::clocks::monotonic_clock::subscribe_duration(3_600_000_000_000).block();
        }
        Descriptor {
            name: "errand".into(),
            version: "1.0.0".into(),
            description: "tries the doors of WASI".into(),
            signals: vec![Signal::Traces],
            encoding: Encoding::Json,
            settings_schema: "{}".into(),
            extra: vec![],
        }
    }

    fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        std::panic::set_hook(Box::new(|info| say(&format!("{info}\n"))));
        Ok(())
    }
}

impl Exporter for Errand {
    fn push(batch: Batch, delivery: Delivery) -> Outcome {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asks = |what: &str| delivery.id == what || settings.contains(&format!(r#"{{"mode":"{what}"}}"#));
        if asks("exit") {
            say("going home\n");
            wasi::cli::exit::exit(Err(()));
            return Outcome::Accepted;
        }
        if asks("print") {
            say("the first \u{1b}[2Jline\n\nthe second");
            return Outcome::Accepted;
        }
        if asks("print-flood") {
            (0..10_000).for_each(|n| say(&format!("line {n}\n")));
            return Outcome::Accepted;
        }
        if asks("panic") {
            panic!("found {} colours where there must be none", delivery.items);
        }
        if asks("sleep") {
            wasi::clocks::monotonic_clock::subscribe_duration(3_600_000_000_000).block();
        }
        let environment = wasi::cli::environment::get_environment();
        let arguments = wasi::cli::environment::get_arguments();
        let folders = wasi::filesystem::preopens::get_directories().len();
        let socket = wasi::sockets::tcp_create_socket::create_tcp_socket(
            wasi::sockets::network::IpAddressFamily::Ipv4,
        );
        let now = wasi::clocks::wall_clock::now().seconds > 1_700_000_000;
        let random = wasi::random::random::get_random_u64() != wasi::random::random::get_random_u64();
        let body = String::from_utf8_lossy(&batch.body).into_owned();
        Outcome::Permanent(format!(
            "environment {} arguments {} folders {folders} socket {} clock {now} random {random} body {body}",
            environment.len(),
            arguments.len(),
            socket.is_ok(),
        ))
    }
}

/// As a standard library with a WASI does.
fn say(text: &str) {
    wasi::cli::stderr::get_stderr().blocking_write_and_flush(text.as_bytes()).ok();
}
