//! The shipped book with the plans that only the stories need.

use std::path::{Path, PathBuf};

use billing_core::book::Book as Rules;
use billing_core::book::reader::{Problems, Source};
use billing_core::book::story::{Story, read_story};
use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::plan::PlanRules;
use billing_core::preview::Preview;
use carriers::{CarrierDefinition, StandInSecrets};

/// A story and where it stands.
pub(crate) struct Told {
    pub(crate) story: Story,
    pub(crate) path: PathBuf,
}

impl Told {
    pub(crate) fn lived(&self, book: &Book, id: SubscriptionId, seed: RefSeed) -> Preview {
        self.story.play(book.rules(&self.story), id, seed).unwrap()
    }
}

/// All plans and all stories.
pub(crate) struct Book {
    pub(crate) plans: Vec<PlanRules>,
    pub(crate) stories: Vec<Told>,
}

pub(crate) fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

pub(crate) fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stories")
}

/// The TOML files of a folder, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

fn source(path: &Path, folder: &str) -> Source {
    let name = path.file_name().unwrap().to_str().unwrap();
    Source { file: format!("config/{folder}/{name}"), text: std::fs::read_to_string(path).unwrap() }
}

impl Book {
    pub(crate) fn read() -> Self {
        let mut sources = Vec::new();
        for folder in ["carriers", "countries", "plans"] {
            sources.extend(files(&shipped().join(folder)).iter().map(|path| source(path, folder)));
        }
        sources.extend(files(&own().join("plans")).iter().map(|path| source(path, "plans")));
        let mut problems = Problems::default();
        let carriers: Vec<CarrierDefinition> = sources
            .iter()
            .filter(|source| source.file.contains("/carriers/"))
            .filter_map(|source| CarrierDefinition::read(source, &StandInSecrets, &mut problems))
            .collect();
        let summaries: Vec<_> = carriers.iter().map(CarrierDefinition::summary).collect();
        let rules = Rules::read(&sources, &summaries).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let mut stories = Vec::new();
        for dir in [shipped(), own()] {
            for path in files(&dir.join("stories")) {
                let story = read_story(&source(&path, "stories"), &rules.plans, &mut problems);
                stories.extend(story.map(|story| Told { story, path }));
            }
        }
        assert!(problems.is_empty(), "{problems:#?}");
        Self { plans: rules.plans, stories }
    }

    pub(crate) fn rules(&self, story: &Story) -> &PlanRules {
        self.plans.iter().find(|plan| plan.id == story.plan).unwrap()
    }
}
