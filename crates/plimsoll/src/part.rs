//! A file that is there when it is whole: what is written lies beside it until then.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The part of a file that is written already. Without [`Part::finish`] nothing is left of it.
pub(crate) struct Part {
    path: PathBuf,
    beside: PathBuf,
    file: File,
    size: u64,
    is_whole: bool,
}

impl Part {
    /// Begins a file, which must not be there yet.
    pub(crate) fn begin(path: &Path) -> anyhow::Result<Part> {
        if path.exists() {
            bail!("{} exists; choose another name, or remove it", path.display());
        }
        Part::begin_over(path)
    }

    /// Begins a file that takes the place of the one that may be there.
    pub(crate) fn begin_over(path: &Path) -> anyhow::Result<Part> {
        if path.is_dir() {
            bail!("{} is a directory; name a file in it", path.display());
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = File::options().write(true).create_new(true).open(&beside).with_context(|| {
            format!(
                "cannot write {}; does its directory exist, may you write there, and is nobody else writing it? What \
                 was killed leaves such a file behind: remove it",
                beside.display()
            )
        })?;
        Ok(Part { path: path.to_owned(), beside, file, size: 0, is_whole: false })
    }

    /// Writes behind what was written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).with_context(|| self.lost("write"))
    }

    /// The file is whole; its size.
    pub(crate) fn finish(mut self) -> anyhow::Result<u64> {
        self.file.sync_all().with_context(|| self.lost("write"))?;
        std::fs::rename(&self.beside, &self.path).with_context(|| self.lost("rename"))?;
        self.is_whole = true;
        Ok(self.size)
    }

    fn lost(&self, what: &str) -> String {
        format!(
            "cannot {what} {}; what was written is lost: is there room on the disk?",
            self.beside.display()
        )
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.plr");
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut part = Part::begin(&path).unwrap();
        part.write(b"half").unwrap();
        let error = Part::begin(&path).err().unwrap();
        assert!(format!("{error:#}").contains("a.plr.part"), "{error:#}");
        assert!(!path.exists());
        drop(part);
        assert_eq!(files(), 0);
        let mut part = Part::begin(&path).unwrap();
        part.write(b"whole").unwrap();
        assert_eq!(part.finish().unwrap(), 5);
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"whole".to_vec(), 1));
        assert!(Part::begin(&path).err().unwrap().to_string().contains("exists"));
        let mut over = Part::begin_over(&path).unwrap();
        over.write(b"other").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        over.finish().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"other".to_vec(), 1));
        let nowhere = Part::begin(&directory.path().join("no/a.plr")).err().unwrap();
        assert!(format!("{nowhere:#}").contains("does its directory exist"));
        let not_a_file = Part::begin_over(directory.path()).err().unwrap();
        assert!(format!("{not_a_file:#}").contains("is a directory"));
    }
}
