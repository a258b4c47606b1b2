//! The pages of the program itself, and how those that only a start needs go back to the system.
//!
//! A start walks through much of the file: the reading of a configuration, the linking of plugins, the components that
//! are part of the program. What was read stays mapped for as long as the process lives, though an idle daemon comes
//! back to a part of it only. Given back, a page is one look-up away while the system's own cache has it, and one read
//! of the file where that needed the room for others.
//!
//! Invariant: gives back only what the process sees exactly as the file has it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Bytes of the system's list of mappings that are read. A mapping takes some 700 of them, and a daemon with all plugins
/// has some 200; what comes behind is not given back.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Gives back the pages of the program that are in memory, and returns of how many bytes of the file.
///
/// # Errors
/// Where the system does not say what is mapped, or refuses.
pub(crate) fn give_back() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    // Line by line: a list in one piece would take new pages of the heap.
    let list = BufReader::new(File::open("/proc/self/smaps")?.take(LIST_BYTES_MAX));
    let mut bytes = 0;
    for part in unchanged(list, &program.to_string_lossy())? {
        bytes += part.len();
        forget(part)?;
    }
    Ok(bytes)
}

/// The parts of `program` that this process cannot write to and has no pages of its own of: those of the linker, where it
/// has written addresses, are not among them.
fn unchanged(mut list: impl BufRead, program: &str) -> io::Result<Vec<Range<usize>>> {
    let mut parts = Vec::new();
    // The part whose figures are read, and how many of them say that there is nothing of our own in it.
    let mut open: Option<(Range<usize>, u32)> = None;
    let mut line = Vec::new();
    while list.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        match (first.strip_suffix(':'), &mut open) {
            (None, open) => *open = mapping(&text, program).map(|part| (part, 0)),
            (Some("Anonymous" | "Swap"), Some((part, clean))) => {
                *clean += u32::from(words.next() == Some("0"));
                if *clean == 2 {
                    parts.push(part.clone());
                    open = None;
                }
            }
            (Some(_), _) => (),
        }
        line.clear();
    }
    Ok(parts)
}

/// The addresses of a mapping, if it is one of `program`'s file that cannot be written to.
///
/// ```text
/// 56068eb26000-56068fc75000 r--p 00000000 fe:00 123456      /usr/bin/weir
/// ```
fn mapping(line: &str, program: &str) -> Option<Range<usize>> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(' ')?;
        rest = after;
        Some(word)
    };
    let (addresses, may, _offset, _device, inode) = (word()?, word()?, word()?, word()?, word()?);
    let is_ours = rest.trim() == program && inode != "0";
    if !is_ours || !matches!(may, "r--p" | "r-xp") {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[expect(unsafe_code, reason = "the system has no safe way to say that pages can be had again")]
fn forget(part: Range<usize>) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(part.start);
    // SAFETY: the range is a whole mapping of the program's own file, private, not writable and without a page that
    // differs from the file (`unchanged`). It stays mapped: whoever reads it next gets the bytes from the file, as whoever
    // reads a page of the program for the first time.
    unsafe { madvise(start, part.len(), Advice::LinuxDontNeed) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled::BUNDLED;

    const LIST: &str = "\
1000-3000 r--p 00000000 fe:00 7        /opt/a weir
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
3000-5000 r-xp 00002000 fe:00 7        /opt/a weir
Anonymous:             0 kB
Swap:                  4 kB
5000-6000 r--p 00004000 fe:00 7        /opt/a weir
Anonymous:             4 kB
Swap:                  0 kB
6000-7000 rw-p 00005000 fe:00 7        /opt/a weir
Anonymous:             0 kB
Swap:                  0 kB
7000-8000 r--s 00005000 fe:00 7        /opt/a weir
Anonymous:             0 kB
Swap:                  0 kB
8000-9000 r--p 00000000 fe:00 8        /opt/weir
Anonymous:             0 kB
Swap:                  0 kB
9000-a000 r--p 00000000 00:00 0 
Anonymous:             0 kB
Swap:                  0 kB
a000-c000 r-xp 00006000 fe:00 7        /opt/a weir
Anonymous:             0 kB
Swap:                  0 kB
c000-d000 r--p 00008000 fe:00 7        /opt/a weir
Anonymous:             0 kB
";

    /// Scenario: a list with the program's code, what the linker has written into, what is swapped out, what can be written
    /// to, what is shared, another file, no file; at last one that is cut.
    /// Guarantees: only what is exactly as the program's file is given back.
    #[test]
    fn only_what_is_as_the_file_has_it_is_given_back() {
        let of = |list: &str, program| unchanged(list.as_bytes(), program).unwrap();
        assert_eq!(of(LIST, "/opt/a weir"), [0x1000..0x3000, 0xa000..0xc000]);
        assert!(matches!(&of(LIST, "/opt/weir")[..], [other] if *other == (0x8000..0x9000)));
        assert!(of(LIST, "/opt/other").is_empty());
        assert!(of("junk\n1-2\nAnonymous:\nx-y r--p 0 0 1 /opt/weir\nSwap: 0 kB\n", "/opt/weir").is_empty());
    }

    /// Scenario: the pages of this test are given back while it runs, again and again.
    /// Guarantees: it finds its own file, and everything that is part of the program reads as before.
    #[test]
    fn what_was_given_back_reads_as_before() {
        let read = || BUNDLED.iter().map(|plugin| plugin.wasm.to_vec()).collect::<Vec<_>>();
        let before = read();
        let all: usize = before.iter().map(Vec::len).sum();
        for _ in 0..10 {
            let bytes = give_back().unwrap();
            assert!(bytes >= all, "only {bytes} bytes were given back");
            assert!(read() == before, "the bytes of a plugin have changed");
        }
    }
}
