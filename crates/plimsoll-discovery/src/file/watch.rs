//! Learning that a file changed, however it was replaced.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::parse::MAX_BYTES;

/// What tells one content of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    /// The state of what `path` leads to now; `None` where it leads nowhere.
    pub(super) fn of(path: &Path) -> Option<State> {
        let metadata = fs::metadata(path).ok()?;
        Some(State {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Reads a file, but not more of it than a little over what is accepted: the parser says what is wrong then.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let most = MAX_BYTES as u64 + 4;
    // One byte more than it has: the end is found without making room for more.
    let mut text = Vec::with_capacity(metadata.len().min(most) as usize + 1);
    file.take(most).read_to_end(&mut text)?;
    Ok(text)
}

/// Ends a [`Watch::wait`].
pub(super) struct Wake(SyncSender<()>);

impl Wake {
    pub(super) fn wake(&self) {
        // A full queue means that it is about to wake up anyway.
        let _ = self.0.try_send(());
    }
}

/// Watches the directories that lead to a file.
pub(super) struct Watch {
    /// `None` where the kernel has no watch to give; then the file is only polled.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// Whether it was said that something cannot be watched.
    said: bool,
    woken: Receiver<()>,
}

impl Watch {
    /// Watches from now on.
    pub(super) fn new(path: &Path) -> (Wake, Watch) {
        let (sender, woken) = sync_channel(1);
        let told = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                let _ = told.try_send(());
            }
        });
        let watcher = watcher.inspect_err(|error| polling(path, error)).ok();
        let mut watch = Watch { watcher, watched: BTreeSet::new(), said: false, woken };
        watch.renew(path);
        (Wake(sender), watch)
    }

    /// Waits until something changed, at most this long; whether something did.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        match self.woken.recv_timeout(at_most) {
            Err(RecvTimeoutError::Timeout) => false,
            // Disconnected: no watcher and no discovery; the caller finds that nobody listens.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        }
    }

    /// Forgets what changed so far.
    pub(super) fn forget(&self) {
        while self.woken.try_recv().is_ok() {}
    }

    /// Watches the directory of `path`, and that of the file it leads to: of a mounted `ConfigMap` the first holds
    /// the link that is switched. Directories may have come, gone or been replaced since the last time.
    pub(super) fn renew(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let target = fs::canonicalize(path).ok();
        let wanted: BTreeSet<PathBuf> =
            [Some(path), target.as_deref()].into_iter().flatten().map(directory).collect();
        for gone in self.watched.difference(&wanted) {
            // It may be gone from the disk as well; either way it is not watched any more.
            let _ = watcher.unwatch(gone);
        }
        self.watched.clear();
        let mut failed = false;
        for directory in wanted {
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory);
                }
                Err(error) => {
                    failed = true;
                    if !self.said {
                        polling(&directory, &error);
                    }
                }
            }
        }
        self.said = failed;
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn polling(path: &Path, error: &notify::Error) {
    tracing::warn!(
        path = %path.display(),
        %error,
        "cannot watch for changes; looking every {} s instead (see the limits fs.inotify.max_user_*)",
        super::POLL.as_secs()
    );
}

/// Whether the file may be complete and different. Each single write into it is not waited for, its end is; and
/// opening and reading, our own too, changes nothing.
const fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => matches!(kind, AccessKind::Close(AccessMode::Write)),
        EventKind::Modify(kind) => !matches!(kind, ModifyKind::Data(_)),
        _ => true,
    }
}
