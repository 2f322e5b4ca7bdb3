//! The carriers of the stories: mocks that answer each story's line by its script.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use billing_core::preview::{Answer, Said};
use loadtest::compare::{CarrierLedger, compare};
use serde_json::{Value, json};
use tests::{Mock, World};

use crate::book::{Book, Told, files, own, shipped};

/// The mocks beside the world's own, which is medina.
const OTHERS: [(&str, &str, &str); 2] = [("alfa", "camara", "EUR"), ("hoshi", "priced", "JPY")];

/// Mock carriers and what their lines are told.
pub(crate) struct Carriers {
    others: Vec<(&'static str, Mock)>,
    balances: BTreeMap<String, i64>,
}

/// A line's number at the carrier of the story's plan.
pub(crate) fn number(book: &Book, told: &Told, index: usize) -> String {
    match book.rules(&told.story).carrier.as_str() {
        "medina" => format!("216{:08}", 20_000_000 + index),
        "alfa" => format!("34{:09}", 600_000_000 + index),
        _ => format!("81{:010}", 9_000_000_000_u64 + index as u64),
    }
}

impl Carriers {
    pub(crate) fn start(world: &World, book: &Book, lines: &[(&Told, String)]) -> Self {
        let behaviour = |carrier: &str| {
            let lines = lines.iter().filter(|(told, _)| book.rules(&told.story).carrier == carrier);
            let scripts: BTreeMap<&str, Vec<Value>> =
                lines.map(|(told, line)| (line.as_str(), script(told))).collect();
            json!({ "scripts": scripts }).to_string()
        };
        world.mock.behave(&behaviour("medina"));
        let others = OTHERS.map(|(id, dialect, currency)| {
            (id, Mock::start(&world.dir, id, dialect, currency, &behaviour(id)))
        });
        Self { others: others.into(), balances: BTreeMap::new() }
    }

    /// Where the engine finds them.
    pub(crate) fn name(&self, world: &World, command: &mut Command) {
        command.args(["--carrier-base", &format!("medina=http://{}", world.mock.address)]);
        for (id, mock) in &self.others {
            command.args(["--carrier-base", &format!("{id}=http://{}", mock.address)]);
        }
    }

    /// From now on a check of this line's balance says so much. Only medina is asked for balances.
    pub(crate) fn tell_balance(&mut self, world: &World, line: &str, minor: i64) {
        self.balances.insert(line.to_owned(), minor);
        world.mock.behave(&json!({ "told_balances": self.balances }).to_string());
    }

    /// Our ledger and theirs; panics with the differences.
    pub(crate) fn compare(&self, world: &World) {
        let mocks = self.others.iter().map(|(id, mock)| (*id, mock)).chain([("medina", &world.mock)]);
        let ledger = |(id, mock): (&str, &Mock)| {
            mock.sync();
            CarrierLedger { carrier: id.to_owned(), path: mock.ledger.clone() }
        };
        let ledgers: Vec<CarrierLedger> = mocks.map(ledger).collect();
        let compared = world.block(async { compare(&mut world.conn().await, &ledgers).await.unwrap() });
        assert!(compared.agrees(), "our ledger and the carriers' differ: {compared:#?}");
        assert!(compared.not_compared.is_empty() && compared.equal > 0, "{compared:#?}");
    }
}

/// The words of a story's answers. What an open request turns out to be later, it is for the carrier from the start.
fn script(told: &Told) -> Vec<Value> {
    let word = |answer: &Answer| match (answer.said, answer.later) {
        (Said::Part(minor), _) => json!({ "partial": minor }),
        (Said::Word("unknown"), Some((later, _))) if later != Said::Done => json!("lost"),
        (said, _) => json!(said.word()),
    };
    told.story.script.answers().iter().map(word).collect()
}

/// The whole shipped book and the plans of the stories; medina is asked for a balance whenever a plan wants it.
pub(crate) fn write_book(world: &World) {
    let dir = &world.book.dir;
    std::fs::create_dir_all(dir.join("countries")).unwrap();
    for folder in ["carriers", "plans", "countries"] {
        for file in files(&shipped().join(folder)) {
            std::fs::copy(&file, dir.join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    for file in files(&own().join("plans")) {
        std::fs::copy(&file, dir.join("plans").join(file.file_name().unwrap())).unwrap();
    }
    // However slow the machine is, no answer is late.
    for (carrier, ..) in OTHERS.iter().chain([&("medina", "flat", "TND")]) {
        let file = format!("carriers/{carrier}.toml");
        world.book.change(&file, "reply_timeout = \"8s\"", "reply_timeout = \"2m\"");
    }
    world.book.change("carriers/medina.toml", "when = \"after_refusal\"", "when = \"before\"");
    // Business days pass within machine seconds here: no answer counts for longer than its own charge.
    world.book.change("carriers/medina.toml", "valid_for = \"60s\"", "valid_for = \"0s\"");
    let secret = world.dir.join("data/secrets/hoshi_key");
    std::fs::create_dir_all(secret.parent().unwrap()).unwrap();
    std::fs::write(&secret, "key-of-the-stories\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
}
