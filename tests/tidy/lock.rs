//! What is locked: nothing below a floor, nothing banned, nothing from elsewhere.

use semver::{Version, VersionReq};
use toml::Value;

use crate::manifest::table;
use crate::source::{Complaint, File};

/// A version below which a package has a hole that we would have.
struct Floor {
    package: &'static str,
    /// Version requirements of which one must hold: a fix that went to several lines has several.
    fixed: &'static [&'static str],
    /// Advisories that set the floor, then older ones under it.
    ids: &'static str,
    /// What could happen to us.
    why: &'static str,
}

/// The floors, as the RustSec database had them on 2026-10-02. A row stays when its package leaves the tree,
/// because packages come back.
const FLOORS: [Floor; 18] = [
    Floor {
        package: "anyhow",
        fixed: &[">=1.0.103"],
        ids: "RUSTSEC-2026-0190",
        why: "a downcast of an error with context was undefined behaviour",
    },
    Floor {
        package: "async-nats",
        fixed: &[">=0.29.0"],
        ids: "RUSTSEC-2023-0027",
        why: "the name in the server's certificate was compared with what the server had said itself",
    },
    Floor {
        package: "bytes",
        fixed: &[">=1.11.1"],
        ids: "RUSTSEC-2026-0007",
        why: "`BytesMut::reserve` overflowed, and every batch is `Bytes`",
    },
    Floor {
        package: "h2",
        fixed: &[">=0.4.16"],
        ids: "RUSTSEC-2026-0258; RUSTSEC-2024-0332, RUSTSEC-2024-0003, RUSTSEC-2023-0034 (CVE-2023-44487)",
        why: "empty DATA frames were queued without a bound; before that, floods of CONTINUATION and of resets",
    },
    Floor {
        package: "idna",
        fixed: &[">=1.0.3"],
        ids: "RUSTSEC-2024-0421",
        why: "two names could compare equal that are not, and egress is granted by name",
    },
    Floor {
        package: "lz4_flex",
        fixed: &[">=0.11.6, <0.12.0", ">=0.12.1"],
        ids: "RUSTSEC-2026-0041",
        why: "a broken block came out with what memory held before",
    },
    Floor {
        package: "prost",
        fixed: &[">=0.6.1"],
        ids: "RUSTSEC-2020-0002",
        why: "a nested message overflowed the stack",
    },
    Floor {
        package: "protobuf",
        fixed: &[">=3.7.2"],
        ids: "RUSTSEC-2024-0437",
        why: "a nested group overflowed the stack",
    },
    Floor {
        package: "ring",
        fixed: &[">=0.17.12"],
        ids: "RUSTSEC-2025-0009",
        why: "AES panicked where overflow is checked, as it is in our tests",
    },
    Floor {
        package: "rustls",
        fixed: &[">=0.23.45"],
        ids: "RUSTSEC-2026-0285; RUSTSEC-2024-0399, RUSTSEC-2024-0336",
        why: "handshake messages were taken across encryption levels; before that, a panic and an endless loop in the handshake",
    },
    Floor {
        package: "rustls-webpki",
        fixed: &[">=0.103.13"],
        ids: "RUSTSEC-2026-0104; RUSTSEC-2026-0099, RUSTSEC-2026-0098, RUSTSEC-2026-0049, RUSTSEC-2023-0053",
        why: "a revocation list could panic us; before that, name constraints on URIs, our identities, were not heard",
    },
    Floor {
        package: "slab",
        fixed: &[">=0.4.11"],
        ids: "RUSTSEC-2025-0047",
        why: "a bound was checked against the capacity and not the length",
    },
    Floor {
        package: "tokio",
        fixed: &[">=1.44.2"],
        ids: "RUSTSEC-2025-0023",
        why: "a broadcast channel cloned on two threads what only one may touch",
    },
    Floor {
        package: "tonic",
        fixed: &[">=0.14.3"],
        ids: "hyperium/tonic#2484, which has no advisory; RUSTSEC-2024-0376 (CVE-2024-47609)",
        why: "a message's limit was held against its compressed size only; before that, one failed accept ended the server",
    },
    Floor {
        package: "tracing-subscriber",
        fixed: &[">=0.3.20"],
        ids: "RUSTSEC-2025-0055 (CVE-2025-58160)",
        why: "what a sender wrote could steer the terminal that shows our log",
    },
    Floor {
        package: "wasmtime",
        fixed: &[">=48.0.4, <49.0.0"],
        ids: "RUSTSEC-2026-0327, -0326, -0325; -0316, -0315, -0269, -0268, -0223, -0222, -0096, -0095, -0093, -0092, -0091, -0088, -0085, -0022, -0021, -0020, RUSTSEC-2025-0118, -0112",
        why: "a guest could write past the host's stack and allocate past its fuel; we stay on 48, the line with long support",
    },
    Floor {
        package: "wasmtime-wasi",
        fixed: &[">=48.0.4, <49.0.0"],
        ids: "RUSTSEC-2026-0324, -0323, -0322, -0321; -0314, -0188, -0182, -0149",
        why: "a guest without stdio could make the host allocate without a bound, and read bytes that nobody wrote",
    },
    Floor {
        package: "zlib-rs",
        fixed: &[">=0.4.0"],
        ids: "RUSTSEC-2024-0401",
        why: "a crafted stream overflowed the stack, and doors decompress what anybody sends",
    },
];

/// One package of a lock file.
struct Locked<'a> {
    name: &'a str,
    version: &'a str,
    source: Option<&'a str>,
    line: usize,
}

/// The packages of a lock file, in its order.
///
/// # Errors
/// It is no lock file.
fn locked<'a>(file: &File, table: &'a toml::Table) -> Result<Vec<Locked<'a>>, Complaint> {
    let packages = table.get("package").and_then(Value::as_array);
    let broken = || Complaint::new(&file.path, 1, "no list of packages; let cargo write the file anew");
    let starts =
        file.text.lines().enumerate().filter(|(_, line)| *line == "[[package]]").map(|(at, _)| at + 1);
    let field = |package: &'a Value, key: &str| package.get(key).and_then(Value::as_str);
    let read = |(package, line): (&'a Value, usize)| {
        let (name, version) = (field(package, "name")?, field(package, "version")?);
        Some(Locked { name, version, source: field(package, "source"), line })
    };
    packages.ok_or_else(broken)?.iter().zip(starts).map(|entry| read(entry).ok_or_else(broken)).collect()
}

/// Runs `check` over each package of a lock file.
fn each(file: &File, check: impl Fn(&Locked<'_>) -> Option<String>) -> Vec<Complaint> {
    let all = || -> Result<Vec<Complaint>, Complaint> {
        let table = table(file)?;
        let packages = locked(file, &table)?;
        let complain = |package: &Locked<'_>| Some(Complaint::new(&file.path, package.line, check(package)?));
        Ok(packages.iter().filter_map(complain).collect())
    };
    all().unwrap_or_else(|broken| vec![broken])
}

/// Nothing is locked below its floor.
pub(crate) fn floors(file: &File) -> Vec<Complaint> {
    each(file, |package| {
        let floor = FLOORS.iter().find(|floor| floor.package == package.name)?;
        let version = Version::parse(package.version).ok();
        let holds = |wanted: &&str| {
            let wanted = VersionReq::parse(wanted).expect("the table holds requirements");
            version.as_ref().is_some_and(|version| wanted.matches(version))
        };
        let what = format!(
            "{} {} is not {} ({}: {}); run `cargo update -p {}`, and raise the floor in Cargo.toml if that does not help",
            package.name,
            package.version,
            floor.fixed.join(" or "),
            floor.ids,
            floor.why,
            package.name
        );
        (!floor.fixed.iter().any(holds)).then_some(what)
    })
}

/// Nothing is locked that .deny.toml bans.
pub(crate) fn bans(file: &File, deny: &File) -> Vec<Complaint> {
    let rules = match table(deny) {
        Ok(rules) => rules,
        Err(broken) => return vec![broken],
    };
    let Some(banned) = rules.get("bans").and_then(|bans| bans.get("deny")).and_then(Value::as_array) else {
        return vec![Complaint::new(
            &deny.path,
            1,
            "no `bans.deny`; list there what may not enter the tree, with reasons",
        )];
    };
    let field = |ban: &Value, key: &str| ban.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let banned: Vec<_> = banned.iter().map(|ban| (field(ban, "crate"), field(ban, "reason"))).collect();
    let bare = banned.iter().find(|(_, reason)| reason.is_empty()).map(|(name, _)| {
        let what =
            format!("`{name}` is banned without a reason; say what went wrong and what to use instead");
        Complaint::new(&deny.path, deny.line_with(&format!("\"{name}\"")), what)
    });
    let locked = each(file, |package| {
        let (_, reason) = banned.iter().find(|(name, _)| name == package.name)?;
        Some(format!(
            "{} is banned: {reason}; `cargo tree -i {}` tells who brings it",
            package.name, package.name
        ))
    });
    bare.into_iter().chain(locked).collect()
}

/// All comes from the default registry or from this repository.
pub(crate) fn sources(file: &File) -> Vec<Complaint> {
    // Cargo writes the default registry under its first name, whatever mirror was asked.
    const DEFAULT: &str = concat!("registry+https://github.com/rust-lang/", "crates", ".io-index");
    each(file, |package| {
        let what = |source: &str| {
            format!(
                "{} comes from {source}; take a published version from the default registry",
                package.name
            )
        };
        package.source.filter(|source| *source != DEFAULT).map(what)
    })
}

// === each check can fail ===

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(packages: &[(&str, &str)]) -> File {
        let entry = |(name, version): &(&str, &str)| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n")
        };
        File::new("Cargo.lock", packages.iter().map(entry).collect::<String>())
    }

    /// Scenario: each floor's package a version below it, and for the line of long support one above.
    /// Guarantees: each is found, with its advisory and the way out.
    #[test]
    fn a_version_below_its_floor_is_noticed() {
        for floor in &FLOORS {
            assert_eq!(floors(&lock(&[(floor.package, "0.0.1")])).len(), 1, "{}", floor.package);
            assert!(!floor.ids.is_empty() && !floor.why.is_empty(), "{} has no reason", floor.package);
        }
        let found = floors(&lock(&[("serde", "1.0.0"), ("h2", "0.4.15"), ("h2", "0.4.16")]));
        assert_eq!(found.len(), 1);
        let shown = found[0].to_string();
        assert!(shown.starts_with("Cargo.lock:5: h2 0.4.15 is not >=0.4.16 (RUSTSEC-2026-0258;"), "{shown}");
        assert!(shown.contains("cargo update -p h2"), "{shown}");
        let wasmtime = |version| floors(&lock(&[("wasmtime", version)])).len();
        assert_eq!(["48.0.3", "48.0.4", "48.0.8", "49.0.2"].map(wasmtime), [1, 0, 0, 1]);
        let lz4 = |version| floors(&lock(&[("lz4_flex", version)])).len();
        assert_eq!(["0.11.5", "0.11.6", "0.12.0", "0.12.1"].map(lz4), [1, 0, 1, 0]);
    }

    /// Scenario: a banned package is locked; a ban has no reason; the list is missing.
    /// Guarantees: each is found.
    #[test]
    fn a_banned_package_is_noticed() {
        let deny = |text: &str| File::new(".deny.toml", text);
        let ban = deny("[bans]\ndeny = [{ crate = \"openssl\", reason = \"use rustls\" }]\n");
        assert_eq!(bans(&lock(&[("openssl-probe", "0.1.0")]), &ban).len(), 0);
        let found = bans(&lock(&[("openssl", "0.10.0")]), &ban);
        assert_eq!(
            found[0].to_string(),
            "Cargo.lock:1: openssl is banned: use rustls; `cargo tree -i openssl` tells who brings it"
        );
        assert_eq!(bans(&lock(&[]), &deny("[bans]\ndeny = [{ crate = \"x\" }]\n")).len(), 2);
        assert_eq!(bans(&lock(&[("a", "1.0.0")]), &deny("[bans]\n")).len(), 1);
    }

    /// Scenario: a package from a branch, and a file without packages.
    /// Guarantees: both are found.
    #[test]
    fn a_package_from_elsewhere_is_noticed() {
        let entry = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n";
        assert_eq!(sources(&File::new("Cargo.lock", entry)).len(), 0);
        let branch = format!("{entry}source = \"git+https://example.com/a\"\n");
        assert_eq!(sources(&File::new("Cargo.lock", branch)).len(), 1);
        assert_eq!(sources(&File::new("Cargo.lock", "version = 4\n")).len(), 1);
    }
}
