//! The book on disk: finds its files, reads them, shows every problem at its place.

use std::fs;
use std::path::Path;

use anyhow::Context;
use billing_core::book::reader::{Problems, Source};
use billing_core::book::story::{Story, read_story};
use billing_core::book::{Book, CarrierSummary};
use billing_core::zone::Zone;
use carriers::{CarrierDefinition, Secrets};
use storage::pg::{BookNames, CarrierName, PlanName};
use thiserror::Error;

/// The most stories of a book.
const STORIES_MAX: usize = 2_000;

/// The book with its carriers and the files that it was made of.
#[derive(Debug)]
pub(crate) struct LoadedBook {
    pub(crate) book: Book,
    pub(crate) carriers: Vec<CarrierDefinition>,
    pub(crate) sources: Vec<Source>,
}

/// The book has problems, every one at its place.
#[derive(Debug, Error)]
#[error("{}", lines(.0))]
pub(crate) struct BookProblems(pub(crate) Problems);

fn lines(problems: &Problems) -> String {
    let mut all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    all.push(format!("{} problem{} in the book", problems.len(), if problems.len() == 1 { "" } else { "s" }));
    all.join("\n")
}

/// Reads and checks the whole book under `dir`.
///
/// # Errors
/// [`BookProblems`] with all of them, or an I/O error.
pub(crate) fn load(dir: &Path, secrets: &dyn Secrets) -> anyhow::Result<LoadedBook> {
    Zone::check_rules().context("the time zone rules built into this program are not usable")?;
    check(read_sources(dir)?, secrets)
}

/// Checks the whole book of these sources.
///
/// # Errors
/// [`BookProblems`] with all of them.
pub(crate) fn check(sources: Vec<Source>, secrets: &dyn Secrets) -> anyhow::Result<LoadedBook> {
    let mut problems = Problems::default();
    let carriers: Vec<CarrierDefinition> = sources
        .iter()
        .filter(|source| source.file.contains("/carriers/") || source.file.starts_with("carriers/"))
        .filter_map(|source| CarrierDefinition::read(source, secrets, &mut problems))
        .collect();
    let summaries: Vec<CarrierSummary> = carriers.iter().map(CarrierDefinition::summary).collect();
    match Book::read(&sources, &summaries) {
        Ok(book) if problems.is_empty() => Ok(LoadedBook { book, carriers, sources }),
        Ok(_) => Err(BookProblems(problems).into()),
        Err(more) => {
            // A plan of a carrier with problems would be blamed for them: then only the carriers' own are shown.
            let carriers_fine = problems.is_empty();
            let more = more.into_vec();
            for problem in more {
                if carriers_fine || !problem.what.contains("carrier") {
                    problems.push(problem);
                }
            }
            Err(BookProblems(problems).into())
        }
    }
}

/// The files of a kept version.
pub(crate) fn kept_sources(files_json: &str) -> anyhow::Result<Vec<Source>> {
    let files: std::collections::BTreeMap<String, String> =
        serde_json::from_str(files_json).context("a kept version of the book is not readable")?;
    Ok(files.into_iter().map(|(file, text)| Source { file, text }).collect())
}

/// The files of the book under `dir`, unchecked.
pub(crate) fn read_sources(dir: &Path) -> anyhow::Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in ["carriers", "plans", "countries"] {
        let folder = dir.join(folder);
        // Countries without a file have no rules.
        if folder.ends_with("countries") && !folder.exists() {
            continue;
        }
        let entries = fs::read_dir(&folder).with_context(|| {
            format!(
                "cannot read {}: the book has folders carriers/ and plans/ and a file engine.toml",
                folder.display()
            )
        })?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
    }
    let engine = dir.join("engine.toml");
    if engine.exists() {
        paths.push(engine);
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            // The book's own names, so that its digest does not depend on where it lies.
            let inside = path.strip_prefix(dir).unwrap_or(&path);
            let file = Path::new("config").join(inside).display().to_string();
            Ok(Source { file, text })
        })
        .collect()
}

/// The files of the stories under `dir`: none where there is no such folder. They are no part of a version.
pub(crate) fn story_sources(dir: &Path) -> anyhow::Result<Vec<Source>> {
    let folder = dir.join("stories");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    anyhow::ensure!(paths.len() <= STORIES_MAX, "{} stories, at most {STORIES_MAX} are read", paths.len());
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let inside = path.strip_prefix(dir).unwrap_or(path);
        Ok(Source { file: Path::new("config").join(inside).display().to_string(), text })
    };
    paths.iter().map(read).collect()
}

/// The stories of a book, each with the file that it stands in.
///
/// # Errors
/// [`BookProblems`] with all of them.
pub(crate) fn stories(dir: &Path, loaded: &LoadedBook) -> anyhow::Result<Vec<(Source, Story)>> {
    let mut problems = Problems::default();
    let mut stories = Vec::new();
    for source in story_sources(dir)? {
        let story = read_story(&source, &loaded.book.plans, &mut problems);
        stories.extend(story.map(|story| (source, story)));
    }
    if problems.is_empty() { Ok(stories) } else { Err(BookProblems(problems).into()) }
}

impl LoadedBook {
    /// What the database needs numbers for.
    pub(crate) fn names(&self) -> anyhow::Result<BookNames> {
        let files: std::collections::BTreeMap<&str, &str> =
            self.sources.iter().map(|source| (source.file.as_str(), source.text.as_str())).collect();
        let carriers = self
            .carriers
            .iter()
            .map(|carrier| CarrierName {
                id: carrier.id.to_string(),
                currency: carrier.caps.currency.numeric(),
                slices: i32::try_from(carrier.slices).unwrap_or(1),
            })
            .collect();
        let plans = self
            .book
            .plans
            .iter()
            .map(|plan| PlanName {
                id: plan.id.clone(),
                merchant: plan.merchant.clone(),
                carrier: plan.carrier.clone(),
            })
            .collect();
        let zones =
            self.carriers.iter().flat_map(|c| c.zones.iter().map(|zone| zone.name().to_owned())).collect();
        Ok(BookNames {
            digest: self.book.digest.to_vec(),
            files_json: serde_json::to_string(&files)?,
            carriers,
            plans,
            zones,
        })
    }
}
