//! The independent checker of `tests/checker`, run over a world.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::process::program;
use crate::world::World;

impl World {
    /// A script of `tests/checker` with everything that this world wrote: ledger, imported lists, logs, data folder.
    pub fn checker(&self, script: &str) -> Command {
        let mut command = Command::new("python3");
        command
            .args(["-B", "-s", "-E"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("checker").join(script))
            .arg("--database")
            .arg(self.url())
            .arg("--ledger")
            .arg(format!("{}={}", self.carrier.id(), self.mock.ledger.display()))
            .arg("--scale")
            .arg(self.scale.to_string())
            // A machine minute of this world's clock, and a day at least.
            .arg("--lag-hours")
            .arg((self.scale / 60).max(24).to_string());
        for list in self.files("csv") {
            command.arg("--list").arg(list);
        }
        for log in self.files("log") {
            command.arg("--log").arg(log);
        }
        command
    }

    /// How the checker calls `toll` for the stories of single charges.
    pub fn explaining(&self) -> String {
        let path = |path: PathBuf| format!("'{}'", path.display());
        format!(
            "{} --data {} --config {} --database '{}'",
            path(program("toll")),
            path(self.dir.join("data")),
            path(self.book.dir.clone()),
            self.url()
        )
    }

    /// Runs the checker; panics with its report when an invariant does not hold.
    pub fn check(&self) -> String {
        let output = self.checker("check.py").output().expect("python3 is needed: run scripts/prepare");
        let text = told(&output);
        assert!(output.status.success(), "the checker found violations:\n{text}");
        text
    }

    /// Files of the world's folder with this ending, without lists of refused lines.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == ending))
            .filter(|path| !path.to_string_lossy().ends_with(".rejects.csv"))
            .collect();
        found.sort();
        found
    }
}

/// What a program said, on both ways out.
pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
