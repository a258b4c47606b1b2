//! `weir validate`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use tokio::runtime::Runtime;

use super::{Failure, complain, say};
use crate::assembly::{CompiledCode, Foundation};
use crate::{config, validate};

/// Says everything that is wrong with a configuration, or what it would do.
pub(super) fn validate(file: Option<&Path>) -> Result<ExitCode, Failure> {
    let path = file.ok_or_else(|| anyhow!("expected a configuration: weir validate FILE"))?;
    let wrong = |report: config::Report| Failure::Config(report.to_string());
    let draft = config::load(path).map_err(wrong)?;
    let runtime = Runtime::new().context("start the runtime")?;
    let foundation = Foundation::lay(draft.config(), runtime.handle().clone(), CompiledCode::KeptIfThere)?;
    let checked = validate::check(draft, &foundation.plugins).map_err(wrong)?;
    for warning in &checked.warnings {
        complain(&warning.line());
    }
    say(&checked.to_string());
    Ok(ExitCode::SUCCESS)
}
