//! `toll book check`: every problem of the book at its place.

use std::path::Path;

use carriers::StandInSecrets;
use serde::Serialize;

use crate::book_files::{self, BookProblems};
use crate::cli::Global;
use crate::exit::failed;
use crate::out;
use crate::words::count;

/// What can be done with the book.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BookCommand {
    /// Check every file of the book and its examples; secrets need not be at hand
    #[command(
        after_help = "Prints every problem as file:line:column: what; help, and exits with 1 when there is one.

Examples:
  toll book check
  toll --config /etc/tollbook book check
  toll book check --json | jq '.problems[] | .file'"
    )]
    Check,
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    carriers: usize,
    plans: usize,
    /// SHA-256 of the files.
    digest: Option<String>,
    problems: Vec<Problem>,
    /// How many more there are than are listed.
    omitted: usize,
}

#[derive(Serialize)]
struct Problem {
    file: String,
    line: u32,
    column: u32,
    what: String,
    help: String,
}

/// Runs a verb.
pub(crate) fn run(global: &Global, command: &BookCommand) -> anyhow::Result<()> {
    let BookCommand::Check = command;
    let checked = match book_files::load(&global.config, &StandInSecrets) {
        Ok(loaded) => Checked {
            ok: true,
            carriers: loaded.carriers.len(),
            plans: loaded.book.plans.len(),
            digest: Some(loaded.book.digest.iter().map(|byte| format!("{byte:02x}")).collect()),
            problems: Vec::new(),
            omitted: 0,
        },
        Err(error) => problems(&global.config, error)?,
    };
    if global.json {
        out::json(&checked)?;
    } else if checked.ok {
        let (carriers, plans) = (count(checked.carriers, "carrier"), count(checked.plans, "plan"));
        out::print(&format!("book is fine: {carriers}, {plans}\n"))?;
    } else {
        let lines: Vec<String> = checked.problems.iter().map(Problem::line).collect();
        out::print(&lines.concat())?;
    }
    match checked.problems.len() + checked.omitted {
        0 => Ok(()),
        found => Err(failed(format!("{} in the book", count(found, "problem")))),
    }
}

fn problems(config: &Path, error: anyhow::Error) -> anyhow::Result<Checked> {
    let BookProblems(problems) = error.downcast::<BookProblems>()?;
    let listed: Vec<Problem> = problems
        .iter()
        .map(|problem| Problem {
            file: on_disk(config, &problem.file),
            line: problem.line,
            column: problem.column,
            what: problem.what.clone(),
            help: problem.help.clone(),
        })
        .collect();
    let omitted = problems.len() - listed.len();
    Ok(Checked { ok: false, carriers: 0, plans: 0, digest: None, problems: listed, omitted })
}

/// Where a file of the book lies, so that an editor can jump there: inside the book its folder is always `config`.
fn on_disk(config: &Path, file: &str) -> String {
    match file.strip_prefix("config/") {
        Some(inside) => config.join(inside).display().to_string(),
        None => file.to_owned(),
    }
}

impl Problem {
    fn line(&self) -> String {
        let help = if self.help.is_empty() { String::new() } else { format!("; {}", self.help) };
        format!("{}:{}:{}: {}{help}\n", self.file, self.line, self.column, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_where_the_files_lie() {
        let file = on_disk(Path::new("/etc/book"), "config/plans/daily.toml");
        assert_eq!(file, "/etc/book/plans/daily.toml");
        assert_eq!(on_disk(Path::new("config"), "config/engine.toml"), "config/engine.toml");
        let (what, help) = ("unknown key", "price");
        let problem = Problem { file, line: 3, column: 9, what: what.into(), help: help.into() };
        assert_eq!(problem.line(), "/etc/book/plans/daily.toml:3:9: unknown key; price\n");
    }
}
