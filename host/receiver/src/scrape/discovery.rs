//! Which targets there are: what the configuration names, and what stands in files, read again when they change.
//!
//! A file that cannot be read or makes no sense keeps the targets that it had, and says so once. A file that is gone has none.
//! All of this works on a blocking thread; time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tracing::{info, warn};
use weir_model::scrape::Target;

use super::job::{Group, Job};
use super::target::{Found, check_address, resolve};

/// Targets of one receiver. Ten times what one collector fetches in good time; beyond it a slip in a file is likelier.
pub const TARGETS_MAX: usize = 100_000;

/// Bytes of a file of targets: all of [`TARGETS_MAX`] with their labels.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Files that one pattern stands for; discovery tools write some tens.
const FILES_MAX: usize = 1_000;

/// Labels of one group in a file.
const GROUP_LABELS_MAX: usize = 256;

/// How often files are looked at: whoever replaces one sees it within seconds.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// Characters of a complaint that are shown.
const COMPLAINT_CHARS_MAX: usize = 300;

/// What there is to fetch.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Each target once.
    pub(super) found: Vec<Found>,
    /// Addresses that make no target; over the bound.
    pub(super) left_out: usize,
}

/// The jobs with what their files said.
pub(super) struct Discovery {
    jobs: Arc<[Job]>,
    sources: Vec<Source>,
    /// What was said of addresses that make no target, so that it is said once.
    invalid: Option<String>,
}

/// One entry of a job's `file_sd_configs`.
struct Source {
    job: usize,
    patterns: Vec<PathBuf>,
    refresh: Duration,
    read_at: Option<Instant>,
    files: BTreeMap<PathBuf, Known>,
    complaint: Option<String>,
}

/// What is known of one file.
#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    groups: Vec<Group>,
    /// Why it could not be read; what it said before still holds.
    complaint: Option<String>,
}

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

/// One group as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Discovery {
    pub(super) fn new(jobs: Arc<[Job]>) -> Self {
        let of_job = |(job, it): (usize, &Job)| {
            let source = move |files: &super::job::TargetFiles| Source {
                job,
                patterns: files.patterns.clone(),
                refresh: files.refresh,
                read_at: None,
                files: BTreeMap::new(),
                complaint: None,
            };
            it.files.iter().map(source).collect::<Vec<_>>()
        };
        let sources = jobs.iter().enumerate().flat_map(of_job).collect();
        Self { jobs, sources, invalid: None }
    }

    /// Whether there is anything to look at again.
    pub(super) fn is_fixed(&self) -> bool {
        self.sources.is_empty()
    }

    /// Looks at the files, and reads those that have changed or are due. True where anything in them is another.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        self.sources.iter_mut().fold(false, |changed, source| source.look(now) | changed)
    }

    /// Files that cannot be used, each with why: what they said before still holds.
    pub(super) fn complaints(&self) -> Vec<String> {
        let of_source = |source: &Source| {
            let of_files = source.files.iter().filter_map(|(path, known)| {
                known.complaint.as_ref().map(|why| format!("{}: {why}", path.display()))
            });
            source.complaint.clone().into_iter().chain(of_files).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of_source).collect()
    }

    /// Every target, relabelled, those that are the same as one.
    pub(super) fn roster(&mut self) -> Roster {
        let mut roster = Roster::default();
        let mut seen: HashSet<Arc<Target>> = HashSet::new();
        let mut invalid = None;
        let fixed = self
            .jobs
            .iter()
            .enumerate()
            .flat_map(|(job, it)| it.groups.iter().map(move |group| (job, group)));
        let of_files = self.sources.iter().flat_map(|source| {
            source
                .files
                .values()
                .flat_map(move |known| known.groups.iter().map(move |group| (source.job, group)))
        });
        for (job, group) in fixed.chain(of_files) {
            for address in &group.targets {
                match resolve(job, &self.jobs[job], address, &group.labels) {
                    Ok(None) => {}
                    Ok(Some(found)) if seen.contains(&found.target) => {}
                    Ok(Some(_)) if roster.found.len() >= TARGETS_MAX => {
                        roster.left_out += 1;
                        invalid.get_or_insert_with(|| format!("there are more than {TARGETS_MAX} targets"));
                    }
                    Ok(Some(found)) => {
                        seen.insert(Arc::clone(&found.target));
                        roster.found.push(found);
                    }
                    Err(why) => {
                        roster.left_out += 1;
                        let shown: String = address.chars().take(100).collect();
                        invalid.get_or_insert_with(|| {
                            format!("job {}, target {shown:?}: {why}", self.jobs[job].name)
                        });
                    }
                }
            }
        }
        if invalid != self.invalid {
            if let Some(why) = &invalid {
                warn!(left_out = roster.left_out, first = why, "targets are left out");
            }
            self.invalid = invalid;
        }
        roster
    }
}

impl Source {
    fn look(&mut self, now: Instant) -> bool {
        let is_due = self.read_at.is_none_or(|at| now.saturating_duration_since(at) >= self.refresh);
        let is_first = self.read_at.is_none();
        if is_due {
            self.read_at = Some(now);
        }
        let (paths, complaint) = self.paths();
        let mut changed = false;
        if complaint.is_none() {
            let gone: Vec<PathBuf> =
                self.files.keys().filter(|path| !paths.contains(*path)).cloned().collect();
            for path in gone {
                info!(file = %path.display(), "file of targets is gone, and its targets with it");
                self.files.remove(&path);
                changed = true;
            }
        }
        self.complain(complaint);
        for path in paths {
            changed |= self.files.entry(path.clone()).or_default().look(&path, is_due);
        }
        changed || is_first
    }

    fn complain(&mut self, complaint: Option<String>) {
        if let Some(why) = complaint.as_ref().filter(|why| self.complaint.as_ref() != Some(*why)) {
            warn!(cause = why, "files of targets cannot be listed, the targets that they had stay");
        }
        self.complaint = complaint;
    }

    /// The files that are there now.
    fn paths(&self) -> (BTreeSet<PathBuf>, Option<String>) {
        let (mut paths, mut complaint) = (BTreeSet::new(), None);
        for pattern in &self.patterns {
            match expand(pattern) {
                Ok(found) => paths.extend(found),
                Err(error) => {
                    complaint.get_or_insert_with(|| format!("{}: {error}", pattern.display()));
                }
            }
        }
        (paths, complaint)
    }
}

impl Known {
    /// Reads the file where it has changed or is due. True where it says something else.
    fn look(&mut self, path: &Path, is_due: bool) -> bool {
        let stamp = fs::metadata(path).ok().map(|metadata| Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        });
        if !is_due && stamp.is_some() && stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        match read(path) {
            Ok(groups) => {
                self.complaint = None;
                let changed = self.groups != groups;
                self.groups = groups;
                changed
            }
            Err(why) => {
                let why: String = why.chars().take(COMPLAINT_CHARS_MAX).collect();
                if self.complaint.as_ref() != Some(&why) {
                    warn!(file = %path.display(), cause = why, "file of targets cannot be used, the targets that it had stay");
                    self.complaint = Some(why);
                }
                false
            }
        }
    }
}

/// The files that a path with at most one `*` in its last part stands for.
fn expand(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else {
        return match fs::metadata(pattern) {
            Ok(_) => Ok(vec![pattern.to_owned()]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
    };
    let folder = match pattern.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let fits =
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
        if !fits || entry.path().is_dir() {
            continue;
        }
        if found.len() == FILES_MAX {
            return Err(io::Error::other(format!("it stands for more than {FILES_MAX} files")));
        }
        found.push(entry.path());
    }
    Ok(found)
}

/// What a file says.
fn read(path: &Path) -> Result<Vec<Group>, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("open: {error}"))?;
    let length =
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| format!("read: {error}"))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let written: Vec<Written> = if is_json {
        serde_json::from_str(&text).map_err(|error| shown("JSON", &error.to_string()))?
    } else if text.trim().is_empty() {
        Vec::new()
    } else {
        serde_saphyr::from_str(&text).map_err(|error| shown("YAML", &error.to_string()))?
    };
    groups(written)
}

fn shown(form: &str, error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    format!("expected a list of {{targets: [host:port], labels: {{name: value}}}} in {form}: {first}")
}

fn groups(written: Vec<Written>) -> Result<Vec<Group>, String> {
    let targets: usize = written.iter().map(|group| group.targets.len()).sum();
    if targets > TARGETS_MAX {
        return Err(format!("it names {targets} targets, at most {TARGETS_MAX} are taken"));
    }
    let mut groups = Vec::with_capacity(written.len());
    for Written { targets, labels } in written {
        if labels.len() > GROUP_LABELS_MAX {
            return Err(format!("a group has {} labels, at most {GROUP_LABELS_MAX} are taken", labels.len()));
        }
        for target in &targets {
            check_address(target).map_err(|expected| format!("target {target:?}: {expected}"))?;
        }
        groups.push(Group { targets, labels: labels.into_iter().collect() });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
