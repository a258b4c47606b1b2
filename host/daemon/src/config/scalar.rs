//! Times, sizes and addresses as a user writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::veil::may_bear_secret;

/// The time in `200ms`, `5s`, `1m30s`, `1.5h`; a bare number only where it is 0.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (whole, after) = digits(rest)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after)?,
            None => ("", after),
        };
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(unit.checked_mul(whole.parse().ok()?)?)?;
        if !fraction.is_empty() {
            // More digits than these are less than a nanosecond of an hour.
            let fraction = &fraction[..fraction.len().min(15)];
            let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
            nanos = nanos.checked_add(unit.checked_mul(fraction.parse().ok()?)? / scale)?;
        }
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let subsecond = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, subsecond))
}

/// Leading digits, at least one and few enough for any time.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0 && end <= 18).then(|| text.split_at(end))
}

/// A time in the largest unit that says it exactly.
pub(crate) struct ShownDuration(pub(crate) Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let units: [(u128, &str); 5] = [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        match units.iter().find(|(unit, _)| nanos > 0 && nanos.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", nanos / unit),
            None if nanos == 0 => f.write_str("0s"),
            None => write!(f, "{nanos}ns"),
        }
    }
}

/// Bytes in `1048576`, `512KiB`, `4MiB`, `1GiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = digits(text)?;
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    unit.checked_mul(number.parse().ok()?)
}

/// A size in the largest unit that says it exactly.
pub(crate) struct ShownBytes(pub(crate) u64);

impl fmt::Display for ShownBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// What is wrong with an address to listen on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AddressSlip {
    /// Not `host:port` at all.
    Form,
    /// The port is not a number up to 65535.
    Port,
    /// `:4317`, which elsewhere means every address of the machine.
    NoHost(u16),
    /// A URL, with the address in it where one can be seen.
    Url(String),
    /// A name: which of its addresses is meant would be up to the resolver.
    Name(String),
}

/// An address to listen on: `127.0.0.1:4317`, `[::1]:4317`, `localhost:4317`.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, AddressSlip> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some((_, rest)) = text.split_once("://") {
        // Without what may be a secret: a user before it, a query behind it.
        let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A password with a slash in it makes an authority of the user.
        if behind.contains('@') {
            return Err(AddressSlip::Form);
        }
        let authority = authority.rsplit('@').next().unwrap_or_default();
        return Err(AddressSlip::Url(authority.to_owned()));
    }
    let (host, port) = text.rsplit_once(':').ok_or(AddressSlip::Form)?;
    if may_bear_secret(text) {
        return Err(AddressSlip::Form);
    }
    let port: u16 = port.parse().map_err(|_| AddressSlip::Port)?;
    match host {
        "" => Err(AddressSlip::NoHost(port)),
        "localhost" => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        host if host.contains(':') || host.contains(' ') || host.starts_with('[') => Err(AddressSlip::Form),
        host => Err(AddressSlip::Name(host.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: times with one unit, several, fractions; and texts that are none.
    /// Guarantees: the former are read exactly, the latter refused, however long.
    #[test]
    fn times_are_read_with_their_units() {
        for (text, millis) in
            [("200ms", 200), ("5s", 5_000), ("1m", 60_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("1µs"), Some(Duration::from_micros(1)));
        let long = "9".repeat(40) + "h";
        for text in ["", "5", "s", "5 s", "-5s", "5sec", "1.s", ".5s", "99999999999999999h", &long] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    /// Scenario: times and sizes of every unit.
    /// Guarantees: what is shown can be written back into the file.
    #[test]
    fn what_is_shown_can_be_written_back() {
        for text in ["200ms", "5s", "90s", "2m", "24h", "1us", "7ns", "0s"] {
            let time = duration(text).expect("a time");
            assert_eq!(ShownDuration(time).to_string(), text);
            assert_eq!(duration(&ShownDuration(time).to_string()), Some(time));
        }
        for text in ["4 MiB", "1 GiB", "512 KiB", "1023 bytes"] {
            let size = bytes(text.trim_end_matches(" bytes")).expect("a size");
            assert_eq!(ShownBytes(size).to_string(), text);
        }
        assert_eq!(bytes("4MB"), None, "a unit that people read in two ways");
        assert_eq!(bytes("99999999999GiB"), None);
    }

    /// Scenario: addresses in the forms that people write, and their usual slips.
    /// Guarantees: each slip is told apart, so that the message can say what to write instead.
    #[test]
    fn addresses_and_their_slips_are_told_apart() {
        let address = |text: &str| listen_address(text).map(|address| address.to_string());
        assert_eq!(address("127.0.0.1:4317"), Ok("127.0.0.1:4317".into()));
        assert_eq!(address("[::1]:0"), Ok("[::1]:0".into()));
        assert_eq!(address("localhost:4317"), Ok("127.0.0.1:4317".into()));
        assert_eq!(address("4317"), Err(AddressSlip::Form));
        assert_eq!(address("::1:4317"), Err(AddressSlip::Form));
        assert_eq!(address("127.0.0.1:70000"), Err(AddressSlip::Port));
        assert_eq!(address(":4317"), Err(AddressSlip::NoHost(4317)));
        assert_eq!(address("http://localhost:4318/v1"), Err(AddressSlip::Url("localhost:4318".into())));
        assert_eq!(address("http://u:hunter2@a:1?key=hunter2"), Err(AddressSlip::Url("a:1".into())));
        assert_eq!(address("hunter2@a:1"), Err(AddressSlip::Form));
        assert_eq!(address("collector.internal:4317"), Err(AddressSlip::Name("collector.internal".into())));
    }
}
