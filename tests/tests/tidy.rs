//! House rules as tests: arrows between crates, purity of the core, banned words, file sizes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "data" | "node_modules") {
                    folders.push(path);
                }
            } else if extensions.iter().any(|extension| name.ends_with(extension)) {
                let inside = path.strip_prefix(&root).unwrap().display().to_string();
                found.push((inside, std::fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

const CRATES: [&str; 8] =
    ["billing-core", "carriers", "storage", "scheduler", "api", "loadtest", "toll", "tests"];

fn dependencies(name: &str, section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let own = manifest.get(section).and_then(|d| d.as_table()).cloned().unwrap_or_default();
    own.keys().filter(|key| CRATES.contains(&key.as_str())).cloned().collect()
}

#[test]
fn arrows_between_crates_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("billing-core", &[][..]),
        ("carriers", &["billing-core"]),
        ("storage", &["billing-core"]),
        ("scheduler", &["billing-core", "carriers", "storage"]),
        ("api", &["billing-core", "carriers", "storage", "scheduler"]),
        ("loadtest", &["billing-core", "carriers", "storage", "scheduler"]),
        ("toll", &["billing-core", "carriers", "storage", "scheduler", "api", "loadtest"]),
        ("tests", &["billing-core", "carriers", "storage", "scheduler", "api", "loadtest"]),
    ]);
    for name in CRATES {
        let may: BTreeSet<String> = allowed[name].iter().map(|n| (*n).to_owned()).collect();
        let does = dependencies(name, "dependencies");
        assert!(does.is_subset(&may), "{name} depends on {:?}", does.difference(&may).collect::<Vec<_>>());
    }
}

#[test]
fn the_workspace_is_what_the_architecture_says() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let members: BTreeSet<&str> =
        manifest["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(members, CRATES.into_iter().collect());
    for name in CRATES {
        let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        assert_eq!(
            manifest["lints"]["workspace"].as_bool(),
            Some(true),
            "{name} must take the workspace's lints"
        );
        assert_eq!(manifest["package"]["name"].as_str(), Some(name), "folder name = crate name");
    }
    assert!(root().join("Cargo.lock").exists());
}

#[test]
fn the_core_reads_no_clock_and_no_randomness_and_does_no_io() {
    let banned = [
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
        "Utc::now",
        "Local::now",
        "rand::",
        "getrandom",
        "thread_rng",
        "tokio",
        "sqlx",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "ToSocketAddrs",
        "std::env",
        "std::process",
        "std::thread",
    ];
    let mut seen = 0;
    for (file, text) in files(&[".rs"]).into_iter().filter(|(file, _)| file.starts_with("billing-core/src/"))
    {
        seen += 1;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = file.ends_with("tests.rs");
        let used = banned.iter().find(|word| !is_test && code_has(code, word));
        assert_eq!(used, None, "{file}: time, seeds and data come into billing-core as arguments");
    }
    assert!(seen > 10);
}

fn code_has(code: &str, word: &str) -> bool {
    code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
}

/// The glossary's "never" list, as whole words of identifiers. `task` is allowed where it is tokio's.
#[test]
fn banned_words_of_the_glossary_do_not_appear() {
    let banned = ["user", "order", "bill", "job", "carrier_ref"];
    let allowed = [
        "order by",
        "within group (order",
        "in order",
        "user-agent",
        "user_agent",
        "userinfo",
        "pg_stat_user_", // Postgres' own name
        "border",
        "reorder",
        "order-preserving",
        "order_by",
        "\"jobs\"", // the option that every tool calls so
        "\"user\"", // the word of HTTP Basic (RFC 7617) in a carrier's file
    ];
    let mut found = Vec::new();
    for (file, text) in files(&[".rs", ".sql"]) {
        if file == "tests/tests/tidy.rs" || file == "storage/db/schema.sql" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            // Prose may speak of an order of things; names may not.
            let code = line.split("//").next().unwrap_or_default();
            let code =
                if file.ends_with(".sql") { code.split("--").next().unwrap_or_default() } else { code };
            let mut low = code.to_lowercase();
            for fine in allowed {
                low = low.replace(fine, "");
            }
            for word in banned {
                let names = |token: &str| {
                    token == word || token.split('_').any(|part| part == word) || token == format!("{word}s")
                };
                if low.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(names) {
                    found.push(format!("{file}:{}: {word:?}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "banned words (glossary):
{}",
        found.join(
            "
"
        )
    );
}

#[test]
fn no_source_file_outgrew_its_limit() {
    const LINES_MAX: usize = 600;
    for (file, text) in files(&[".rs", ".sql", ".py"]) {
        let lines = text.lines().count();
        let is_generated = file == "storage/db/schema.sql";
        assert!(
            lines <= LINES_MAX || is_generated,
            "{file} has {lines} lines: split it by responsibility (limit {LINES_MAX})"
        );
    }
}

#[test]
fn no_unsafe_no_stub_no_skipped_test() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "// FIXME", "// XXX", "// TODO"];
    for (file, text) in files(&[".rs"]).into_iter().filter(|(file, _)| file != "tests/tests/tidy.rs") {
        for mark in marks {
            assert!(!text.contains(mark), "{file} holds {mark}");
        }
        assert!(!code_has(&text, "unsafe {"), "{file} holds unsafe code of our own");
    }
}

#[test]
fn every_procedure_is_applied_and_documented() {
    let applied = std::fs::read_to_string(root().join("storage/src/pg/migrate.rs")).unwrap();
    for (file, text) in files(&[".sql"]).into_iter().filter(|(file, _)| file.contains("/procedures/")) {
        let name = file.rsplit('/').next().unwrap();
        assert!(applied.contains(&format!("procedures/{name}")), "{file} is never applied");
        assert!(text.starts_with("-- "), "{file} does not say what it is for");
        let functions = text.matches("CREATE OR REPLACE FUNCTION").count();
        assert_eq!(functions, 1, "{file}: one file per function");
    }
}

#[test]
fn queries_are_never_formatted() {
    for (file, text) in files(&[".rs"])
        .into_iter()
        .filter(|(f, _)| f.starts_with("storage/src") || f.starts_with("scheduler/src"))
    {
        // The launcher creates its own database: a name cannot be bound, and is checked to be a plain one.
        let own = file == "storage/src/launcher.rs";
        let formatted = text.contains("query(&format!") || text.contains("AssertSqlSafe");
        assert!(own || !formatted, "{file}: prepared statements only");
    }
}
