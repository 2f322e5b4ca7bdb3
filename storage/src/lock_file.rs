//! A file that one process at a time holds locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// A locked file. Dropping it gives the lock back; so does the death of the process, however it dies.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Makes the file at `path` if it is missing and locks it without waiting. `None` if somebody else holds it.
    ///
    /// # Errors
    /// What the system said, when the file cannot be made, opened or locked.
    pub fn take(path: &Path) -> io::Result<Option<LockFile>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(LockFile { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes `text` the content of the file, for those who find it locked.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for LockFile {
    /// Closing the file is not enough: the lock belongs to all copies of its descriptor, and a program that another thread is
    /// just starting has one between `fork` and `exec`.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn one_holds_it_and_says_who_it_is() {
        let dir = ScratchDir::new("lock-file");
        let path = dir.path().join("lock");
        let mut first = LockFile::take(&path).unwrap().unwrap();
        first.write("41\n").unwrap();
        assert!(LockFile::take(&path).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "41\n");
        drop(first);
        let mut next = LockFile::take(&path).unwrap().unwrap();
        next.write("7\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
    }

    #[test]
    fn it_is_given_back_although_a_child_that_is_being_started_has_a_copy_of_the_descriptor() {
        let dir = ScratchDir::new("lock-file-fork");
        let path = dir.path().join("lock");
        let held = LockFile::take(&path).unwrap().unwrap();
        // What `fork` leaves in the child: another descriptor of the same open file.
        let of_the_child = held.file.try_clone().unwrap();
        drop(held);
        assert!(LockFile::take(&path).unwrap().is_some());
        drop(of_the_child);
    }
}
