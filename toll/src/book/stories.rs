//! `toll book test`: the stories of the book, run by the functions that decide in the engine. Every story that is not as
//! expected is told with the place of its first differing line.

use std::path::Path;

use anyhow::Context;
use billing_core::book::reader::Source;
use billing_core::book::story::{Difference, Story, blessed};
use serde::Serialize;

use super::{check, on_disk};
use crate::book_files;
use crate::cli::Global;
use crate::exit::{failed, missed, usage};
use crate::out::{self, Paint};

/// What `toll book test` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Stories stand in stories/<id>.toml beside the plans. Exits with 4 when one is not as expected.

Examples:
  toll book test
  toll book test kids-no-money          only stories whose id contains this
  toll book test --bless                write what comes now as what is expected; read the diff before you commit it
  toll book test --json | jq '.stories[] | select(.ok | not)'"
)]
pub(crate) struct TestArgs {
    /// Only stories whose id contains this
    only: Option<String>,
    /// Rewrite what is expected
    #[arg(long)]
    bless: bool,
}

#[derive(Serialize)]
struct Tested {
    ok: bool,
    stories: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    story: String,
    about: String,
    plan: String,
    file: String,
    ok: bool,
    /// `true` when its expectation was rewritten.
    blessed: bool,
    /// The line of the file with the first difference.
    line: Option<u32>,
    expected: Option<String>,
    found: Option<String>,
    /// Everything that came.
    lines: Vec<String>,
}

/// Runs the stories.
pub(super) fn test(global: &Global, args: &TestArgs) -> anyhow::Result<()> {
    let loaded = on_disk(global)?;
    let stories = book_files::stories(&global.config, &loaded).map_err(|error| check::tell(global, error))?;
    let wanted = |story: &Story| args.only.as_ref().is_none_or(|only| story.id.contains(only.as_str()));
    let mut told = Vec::new();
    for (source, story) in stories.iter().filter(|(_, story)| wanted(story)) {
        let rules = loaded.book.plan(&story.plan).ok_or_else(|| failed("a story lost its plan"))?;
        let lines = story.lines(rules).map_err(|error| failed(format!("{}: {error}", story.id)))?;
        let file = check::on_disk(&global.config, &source.file);
        let rewritten = args.bless && bless(Path::new(&file), source, story, &lines)?;
        let difference = if args.bless { None } else { story.difference(&lines) };
        told.push(told_of(story, file, lines, rewritten, difference));
    }
    if told.is_empty() {
        return match &args.only {
            Some(only) => Err(usage(format!("no story's id contains {:?}", crate::shown::one_line(only)))),
            None => out::print("the book has no stories: they stand in stories/<id>.toml\n"),
        };
    }
    let wrong = told.iter().filter(|told| !told.ok).count();
    let all = Tested { ok: wrong == 0, stories: told };
    if global.json {
        out::json(&all)?;
    } else {
        out::print(&text(&all, Paint::of_stdout()))?;
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(missed(format!("{wrong} of {} stories are not as expected", all.stories.len()))),
    }
}

fn bless(path: &Path, source: &Source, story: &Story, lines: &[String]) -> anyhow::Result<bool> {
    if story.expect.as_deref() == Some(lines) {
        return Ok(false);
    }
    let text = blessed(&source.text, lines);
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

fn told_of(
    story: &Story,
    file: String,
    lines: Vec<String>,
    blessed: bool,
    difference: Option<Difference>,
) -> Told {
    let ok = difference.is_none();
    let (line, expected, found) = match difference {
        Some(difference) => (Some(difference.line), difference.expected, difference.found),
        None => (None, None, None),
    };
    let (story, about, plan) = (story.id.clone(), story.about.clone(), story.plan.clone());
    Told { story, about, plan, file, ok, blessed, line, expected, found, lines }
}

fn text(all: &Tested, paint: Paint) -> String {
    let mut text = String::new();
    for told in &all.stories {
        let Told { story, about, file, .. } = told;
        if told.blessed {
            text += &format!("{} {story}: {about}\n", paint.warn("rewritten"));
        } else if told.ok {
            text += &format!("{} {story}: {about}\n", paint.good("as expected"));
        } else {
            let line = told.line.unwrap_or(1);
            text += &format!("{} {story}: {about}\n  {file}:{line}\n", paint.bad("differs"));
            let shown = |line: &Option<String>| line.clone().unwrap_or_else(|| "(no more lines)".to_owned());
            text += &format!("  - {}\n  + {}\n", shown(&told.expected), shown(&told.found));
        }
    }
    let fine = all.stories.iter().filter(|told| told.ok).count();
    text + &format!("{fine} of {} stories are as expected\n", all.stories.len())
}
