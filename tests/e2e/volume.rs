//! A file system of its own in a file, that can lose its power.
//!
//! The cut is ext4's own: `EXT4_IOC_SHUTDOWN` with the flag that leaves the journal unwritten. What was not synced is
//! gone after the next mount, as after a real cut; what the kernel still had in memory is refused with EIO.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use weir_tests::wait::until;

/// `_IOR('X', 125, u32)`, from the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;

/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not written out before.
const WITHOUT_LOG_FLUSH: u32 = 2;

/// How long the kernel may take to let go of a file system that nobody uses any more.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(20);

/// Whether this process may mount. Says aloud which stories do not run where it may not.
pub(crate) fn may_mount(story: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!(
            "NOT RUN: {story}: mounting a file system needs root. Run this test as root to see it hold."
        );
    }
    is_root
}

/// A mounted file system. Dropped, it is unmounted and forgotten.
#[derive(Debug)]
pub(crate) struct Volume {
    folder: TempDir,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ext4,
    Memory,
}

impl Volume {
    /// ext4 on a loop device over a file.
    pub(crate) fn ext4(mib: u64) -> Self {
        let volume = Self::empty(Kind::Ext4);
        let image = File::create(volume.image()).expect("the folder is ours");
        image.set_len(mib << 20).expect("a file may have holes");
        run("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-F"), volume.image().as_os_str()]);
        volume.mount();
        volume
    }

    /// tmpfs of this size: it is full at the byte.
    pub(crate) fn memory(mib: u64) -> Self {
        let volume = Self::empty(Kind::Memory);
        let size = format!("size={mib}m");
        let mount = volume.path();
        run(
            "mount",
            [
                OsStr::new("-t"),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "tmpfs".as_ref(),
                mount.as_os_str(),
            ],
        );
        volume
    }

    fn empty(kind: Kind) -> Self {
        let folder = TempDir::with_prefix("weir-volume-").expect("a folder for a file system");
        std::fs::create_dir(folder.path().join("mount")).expect("the folder is ours");
        Self { folder, kind }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) {
        run("mount", [OsStr::new("-o"), "loop".as_ref(), self.image().as_os_str(), self.path().as_os_str()]);
    }

    /// The power goes: from now on nothing reaches the disk.
    pub(crate) fn cut(&self) {
        assert_eq!(self.kind, Kind::Ext4, "memory has no power to lose");
        let root = File::open(self.path()).expect("it is mounted");
        let flags = WITHOUT_LOG_FLUSH;
        #[expect(
            unsafe_code,
            reason = "no safe wrapper knows this request; it reads one u32, which outlives the call"
        )]
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, std::ptr::from_ref(&flags)) };
        assert_eq!(result, 0, "cut the power: {}", std::io::Error::last_os_error());
    }

    /// The power comes back. Whoever had files open here must be dead.
    pub(crate) async fn restore(&self) {
        self.unmount().await;
        self.mount();
    }

    async fn unmount(&self) {
        // The kernel closes a killed process' files a moment after its parent has heard of the end.
        let unmounted = until(UNMOUNT_DEADLINE, async || unmounts(&self.path()).then_some(())).await;
        assert!(unmounted.is_some(), "somebody still uses {}", self.path().display());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !unmounts(&self.path()) {
            // A daemon that a failed test left behind may still use it.
            let lazily = Command::new("umount").arg("-l").arg(self.path()).status();
            assert!(
                std::thread::panicking() || lazily.is_ok_and(|status| status.success()),
                "unmount {}",
                self.path().display()
            );
        }
    }
}

fn unmounts(path: &Path) -> bool {
    Command::new("umount").arg(path).output().expect("umount starts").status.success()
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed as root: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
