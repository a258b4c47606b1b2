//! `weir`: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_daemon::command::main()
}
