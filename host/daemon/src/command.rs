//! The command line: what a person types, and how the process says how it went.

mod cert;
mod demo;
mod fleet;
mod open_files;
mod plugin;
mod queue;
mod run;
mod shorthand;
mod supervisor;
mod validate;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Exit codes, from `sysexits.h`.
const EXIT_CODES: &str = "\
Exit codes:
  0   it went well; for `run`: everything under way was finished before the end
  1   it did not; the last line on standard error says why
  64  the command line was not understood
  78  the configuration is wrong; every error is told with its file, line and column";

/// A telemetry agent and collector whose receivers and exporters are sandboxed WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receives, keeps and exports telemetry until SIGTERM or Ctrl-C.
    ///
    /// Without a configuration: the standard ports on localhost, a queue in memory, and the `debug` exporter. With --send-to or
    /// --collect: one end of a link between an agent and a collector, with a queue on disk.
    Run {
        /// The configuration, YAML in the shape of the OpenTelemetry Collector's.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// The same.
        #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
        #[command(flatten)]
        shorthand: shorthand::Shorthand,
    },
    /// Lists the agents of a running collector.
    Fleet(fleet::Fleet),
    /// Says everything that is wrong with a configuration, or what it would do.
    Validate {
        /// The configuration.
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The configuration, as `run` takes it.
        #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Shows the whole way of a span: real senders, a queue on disk, a sandboxed exporter, a backend.
    Demo {
        /// Ends after one round instead of at Ctrl-C.
        #[arg(long)]
        once: bool,
    },
    /// Makes a private authority, and certificates for the hosts that speak to each other.
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Looks at plugins, and prepares them.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Looks into queues, with the daemon running or not, and mends them.
    Queue(queue::Queue),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong; the text says all of it.
    Config(String),
    /// Anything else that a person reads.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // First of all: what only looks ends at a hangup as any command does, the daemon never.
    let hangup = std::env::args_os().nth(1).filter(|word| word == "run").map(|_| run::listen_for_hangup());
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let done = match arguments.command {
        Command::Run { file, config, shorthand } => {
            let hangup = hangup.unwrap_or_else(run::listen_for_hangup);
            run::run(file.or(config).as_deref(), shorthand, hangup)
        }
        Command::Fleet(command) => fleet::fleet(command),
        Command::Validate { file, config } => validate::validate(file.or(config).as_deref()),
        Command::Demo { once } => demo::demo(once),
        Command::Cert(command) => cert::cert(command),
        Command::Plugin(command) => plugin::plugin(command),
        Command::Queue(command) => queue::queue(command),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Config(report)) => {
            complain(&report);
            ExitCode::from(78)
        }
        Err(Failure::Other(error)) => {
            complain(&format!("error: {error:#}{}", advice(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The next thing to do, where the cause tells.
fn advice(error: &anyhow::Error) -> &'static str {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::AddrInUse) => ": end the process that has it, or set another `endpoint`",
        Some(io::ErrorKind::AddrNotAvailable) => ": set `endpoint` to an address of this machine",
        // Foreign: other kinds tell nothing of what to do.
        Some(_) | None => "",
    }
}

/// Help and version are answers; anything else is a mistake on the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Where standard output is gone there is nobody left to tell.
    error.print().ok();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(64), // Foreign: every other kind is a usage error.
    }
}

/// Writes for a person to standard output.
fn say(text: &str) {
    // Where standard output is gone (`weir … | head`) there is nobody left to tell.
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

/// Writes for a person to standard error.
fn complain(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}
