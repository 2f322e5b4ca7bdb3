//! `toll book check`: every problem of the book at its place.

use std::path::Path;

use carriers::StandInSecrets;
use serde::Serialize;

use crate::book_files::{self, BookProblems};
use crate::cli::Global;
use crate::exit::failed;
use crate::out;
use crate::words::{count, digest};

#[derive(Serialize)]
struct Checked {
    ok: bool,
    carriers: usize,
    plans: usize,
    /// Stories, which `toll book test` runs.
    stories: usize,
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

/// Checks the files on disk and says what it found.
pub(super) fn check(global: &Global) -> anyhow::Result<()> {
    let loaded = book_files::load(&global.config, &StandInSecrets);
    let loaded = loaded.map_err(|error| tell(global, error))?;
    let stories = book_files::stories(&global.config, &loaded).map_err(|error| tell(global, error))?.len();
    if global.json {
        return out::json(&Checked {
            ok: true,
            carriers: loaded.carriers.len(),
            plans: loaded.book.plans.len(),
            stories,
            digest: Some(digest(&loaded.book.digest)),
            problems: Vec::new(),
            omitted: 0,
        });
    }
    let (carriers, plans) = (count(loaded.carriers.len(), "carrier"), count(loaded.book.plans.len(), "plan"));
    let stories = match stories {
        0 => String::new(),
        stories => {
            let stories = stories.to_string() + if stories == 1 { " story" } else { " stories" };
            format!(", {stories} (`toll book test` runs them)")
        }
    };
    out::print(&format!("book is fine: {carriers}, {plans}{stories}\n"))
}

/// Prints every problem of a book at its place; gives the failure to end with.
pub(super) fn tell(global: &Global, error: anyhow::Error) -> anyhow::Error {
    let told = problems(&global.config, error).and_then(|checked| {
        if global.json {
            out::json(&checked)?;
        } else {
            let lines: Vec<String> = checked.problems.iter().map(Problem::line).collect();
            out::print(&lines.concat())?;
        }
        Ok(checked.problems.len() + checked.omitted)
    });
    match told {
        Ok(found) => failed(format!("{} in the book", count(found, "problem"))),
        Err(error) => error,
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
    Ok(Checked { ok: false, carriers: 0, plans: 0, stories: 0, digest: None, problems: listed, omitted })
}

/// Where a file of the book lies, so that an editor can jump there: inside the book its folder is always `config`.
pub(super) fn on_disk(config: &Path, file: &str) -> String {
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
