//! What people and programs read on stdout: plain padded columns, JSON, a little colour on a terminal.

use std::io::{ErrorKind, IsTerminal, Write, stdout};

use serde::Serialize;

/// Writes text to stdout. That nobody reads it (`| head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes text that must arrive: a reader that is gone is a failure.
pub(crate) fn deliver(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes an object as JSON and a line end.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// How text is set off, on a terminal without `NO_COLOR`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For stdout as it is.
    pub(crate) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let capable = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self(wanted && capable && stdout().is_terminal())
    }

    /// No colour at all.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(false)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns padded to the widest cell; amounts to the right.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these heads; one that begins with `>` has its cells to the right.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads = heads.iter().map(|head| head.trim_start_matches('>')).collect();
        Self { heads, rows: Vec::new(), right }
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines, each with `indent` spaces in front.
    pub(crate) fn render(&self, indent: usize, paint: Paint) -> String {
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&heads]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| {
                let pad = " ".repeat(width - cell.chars().count());
                if *right { pad + cell } else { cell.clone() + &pad }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let space = " ".repeat(indent);
        let mut text = format!("{space}{}\n", paint.dim(&line(&heads)));
        for row in &self.rows {
            text += &format!("{space}{}\n", line(row));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_by_characters() {
        let mut table = Table::new(&["NAME", ">SUM", "NOTE"]);
        table.row(vec!["é".into(), "1.500".into(), "x".into()]);
        table.row(vec!["longer".into(), "12".into(), String::new()]);
        let text = table.render(2, Paint::never());
        assert_eq!(text, "  NAME      SUM  NOTE\n  é       1.500  x\n  longer     12\n");
    }
}
