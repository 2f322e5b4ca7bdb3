//! A Postgres of our own with the repository's book in it, and short ways to import into it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use billing_core::book::Book;
use billing_core::book::reader::{Problems, Source};
use carriers::{CarrierDefinition, StandInSecrets};
use jiff::Timestamp;
use scheduler::Catalog;
use scheduler::import::{
    BATCH_ROWS, CarrierRules, ImportError, ImportProgress, ImportReport, Importer, Rejected,
};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{BookNames, CarrierName, PlanName, connect, migrate, sync_book};
use storage::vault::Vault;

/// 2026-11-21 19:00 in Madrid; already the 22nd in Tokyo.
pub(crate) const NOW: Timestamp = Timestamp::constant(1_795_284_000, 0);

/// A database to import into. Dropping it removes everything.
pub(crate) struct World {
    pub(crate) conn: PgConnection,
    pub(crate) kit: Kit,
    postgres: PrivatePostgres,
    scratch: Scratch,
}

/// What importers are made of.
pub(crate) struct Kit {
    pub(crate) vault: Vault,
    pub(crate) now: Timestamp,
    pub(crate) batch_rows: usize,
    catalog: Catalog,
    carriers: Vec<CarrierRules>,
}

/// A rejected line, kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeptReject {
    pub(crate) line: u64,
    pub(crate) reason: String,
    pub(crate) fields: Vec<String>,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl World {
    /// Starts a server with the book of `config/`, in which hoshi has four shards.
    pub(crate) async fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("toll-import-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let options =
            LauncherOptions { durable: false, ..LauncherOptions::new(dir.join("postgres"), "toll_test") };
        let postgres =
            tokio::task::spawn_blocking(|| PrivatePostgres::start(options).unwrap()).await.unwrap();
        let mut conn = connect(&postgres.url(), "import-test").await.unwrap();
        migrate(&mut conn).await.unwrap();
        let (definitions, book) = book();
        let names = sync_book(&mut conn, &names_of(&definitions, &book)).await.unwrap();
        let kit = Kit {
            vault: Vault::for_tests(3),
            now: NOW,
            batch_rows: BATCH_ROWS,
            catalog: Catalog::new(&book.plans, names).unwrap(),
            carriers: definitions.iter().map(CarrierRules::from).collect(),
        };
        Self { conn, kit, postgres, scratch: Scratch(dir) }
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.scratch.0
    }

    /// Imports a text.
    pub(crate) async fn import(&mut self, file: &str) -> (ImportReport, Vec<KeptReject>) {
        self.try_import(file.as_bytes()).await.unwrap()
    }

    pub(crate) async fn try_import(
        &mut self,
        file: &[u8],
    ) -> Result<(ImportReport, Vec<KeptReject>), ImportError> {
        self.run(file, Some(file.len() as u64), &mut Vec::new()).await
    }

    /// Imports whatever can be read; `seen` gets every progress.
    pub(crate) async fn run(
        &mut self,
        input: impl std::io::Read,
        bytes_total: Option<u64>,
        seen: &mut Vec<ImportProgress>,
    ) -> Result<(ImportReport, Vec<KeptReject>), ImportError> {
        let importer = self.kit.importer();
        let mut kept = Vec::new();
        let mut rejects = |row: &Rejected<'_>| {
            let fields = row.fields.iter().map(ToString::to_string).collect();
            kept.push(KeptReject { line: row.line, reason: row.reason.to_owned(), fields });
            Ok(())
        };
        let mut progress = |progress: &ImportProgress| seen.push(*progress);
        let report = importer.run(&mut self.conn, input, bytes_total, &mut rejects, &mut progress).await?;
        assert_eq!(report.rows, report.created + report.existing + report.rejected);
        Ok((report, kept))
    }

    /// Every row of every table, as text.
    pub(crate) async fn dump(&mut self) -> String {
        let tables: Vec<(String,)> =
            sqlx::query_as("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
                .fetch_all(&mut self.conn)
                .await
                .unwrap();
        assert!(tables.len() > 20);
        let mut dump = String::new();
        for (table,) in tables {
            let rows: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM \"{table}\" AS t"
            )))
            .fetch_one(&mut self.conn)
            .await
            .unwrap();
            dump += &format!("-- {table}\n{}\n", rows.unwrap_or_default());
        }
        dump
    }
}

impl Kit {
    pub(crate) fn importer(&self) -> Importer<'_> {
        let importer = Importer::new(&self.catalog, &self.carriers, &self.vault, self.now).unwrap();
        importer.with_batch_rows(self.batch_rows)
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(folder);
    let mut sources: Vec<Source> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            Source { file: format!("config/{folder}/{name}"), text: std::fs::read_to_string(&path).unwrap() }
        })
        .collect();
    sources.sort_by(|left, right| left.file.cmp(&right.file));
    sources
}

fn book() -> (Vec<CarrierDefinition>, Book) {
    let mut carriers = sources("carriers");
    for carrier in carriers.iter_mut().filter(|carrier| carrier.file.contains("hoshi")) {
        let cut = carrier.text.replace("[limits]", "slices = 4\n[limits]");
        assert_ne!(cut, carrier.text);
        carrier.text = cut;
    }
    let mut problems = Problems::default();
    let definitions: Vec<CarrierDefinition> = carriers
        .iter()
        .filter_map(|source| CarrierDefinition::read(source, &StandInSecrets, &mut problems))
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    let summaries: Vec<_> = definitions.iter().map(CarrierDefinition::summary).collect();
    let all: Vec<Source> = carriers.into_iter().chain(sources("plans")).chain(sources("countries")).collect();
    let book = Book::read(&all, &summaries).unwrap();
    (definitions, book)
}

fn names_of(definitions: &[CarrierDefinition], book: &Book) -> BookNames {
    let carriers = definitions.iter().map(|definition| CarrierName {
        id: definition.id.to_string(),
        currency: definition.caps.currency.numeric(),
        slices: i32::try_from(definition.slices).unwrap(),
    });
    let plans = book.plans.iter().map(|plan| PlanName {
        id: plan.id.clone(),
        merchant: plan.merchant.clone(),
        carrier: plan.carrier.clone(),
    });
    let zones: HashSet<String> =
        definitions.iter().flat_map(|d| d.zones.iter().map(|zone| zone.name().to_owned())).collect();
    BookNames {
        digest: book.digest.to_vec(),
        files_json: "{}".to_owned(),
        carriers: carriers.collect(),
        plans: plans.collect(),
        zones: zones.into_iter().collect(),
    }
}
