//! How many files and sockets the process may have open at once.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the soft limit of open files to the hard one, and tells. The usual soft one, 1,024, is there for programs that wait by
/// `select`, which knows no more; fetches, their kept connections and senders are thousands.
pub(super) fn raise() {
    match raised() {
        Ok(Some(most)) => debug!(most, "limit of open files"),
        Ok(None) => debug!("no limit of open files"),
        Err(error) => {
            let most = getrlimit(Resource::Nofile).current;
            warn!(%error, ?most, "limit of open files not raised: set it where the process is started (`ulimit -n`, `LimitNOFILE=`)");
        }
    }
}

/// What it is then; `None`: no limit.
fn raised() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(getrlimit(Resource::Nofile).current)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a process whose soft limit is below its hard one.
    /// Guarantees: afterwards it has the hard one, which is what is told; another time changes nothing.
    #[test]
    fn the_soft_limit_of_open_files_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let hard = before.maximum;
        let lower = hard.map_or(1 << 16, |hard| hard - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum: hard }).unwrap();
        assert_ne!(getrlimit(Resource::Nofile).current, hard);
        for _ in 0..2 {
            assert_eq!(raised().unwrap(), hard);
            assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: hard, maximum: hard });
        }
    }
}
