//! Writing to stdout and stderr: the only functions that do. A closed pipe ends quietly.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, ErrorKind, Result, visible};

/// Data, as it is.
pub fn write_text(text: &str) -> Result<()> {
    finish(io::stdout().lock().write_all(text.as_bytes()))
}

/// Text for people, in whatever words: nothing in it commands the terminal.
pub fn write_page(text: &str) -> Result<()> {
    write_text(&visible(text, true))
}

/// Indented, with a line break at the end.
pub fn write_json(value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::internal("cannot print JSON").source(source))?;
    write_text(&format!("{text}\n"))
}

/// A line for people; lost if nobody listens.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(text, true));
}

/// Whether stderr is one: progress is shown there, whatever becomes of stdout.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// How many `units` (rows, tables) are done of how many, on a terminal.
pub fn bar(what: &str, units: &str) -> ProgressBar {
    if !is_terminal() {
        return ProgressBar::hidden();
    }
    let template =
        format!("{{msg}} {{bar:30}} {{human_pos}} of {{human_len}} {units}  {{elapsed}}");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message(what.to_owned())
}

/// A reader that went away (`| head`) is no error.
pub fn finish(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Exhausted, "cannot write to stdout").source(error))
        }
        _ => Ok(()),
    }
}

/// Rows under headings, columns aligned; numbers to the right. What a cell holds stays in its line.
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let shown =
        |row: &Vec<String>| row.iter().map(|cell| visible(cell, false).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let is_number = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
            && text.chars().all(|c| c.is_ascii_digit() || ".-,%".contains(c))
    };
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .chain([heading.chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let right: Vec<bool> = (0..headings.len())
        .map(|column| {
            let mut cells = rows.iter().filter_map(|row| row.get(column)).peekable();
            cells.peek().is_some() && cells.all(|cell| cell.is_empty() || is_number(cell))
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            if column > 0 {
                text.push_str("  ");
            }
            if right[column] {
                text.push_str(&pad);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&pad);
            }
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(headings.to_vec());
    for row in &rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit and three digits.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_lean_right() {
        let rows = vec![
            vec!["gold.a".to_owned(), "7".to_owned()],
            vec!["silver.long".to_owned(), "1,200".to_owned()],
        ];
        assert_eq!(
            columns(&["table", "rows"], &rows),
            "table         rows\ngold.a           7\nsilver.long  1,200\n"
        );
    }

    #[test]
    fn a_cell_commands_no_terminal() {
        let rows = vec![vec!["\u{1b}[2J\r\n\u{9b}31m\u{202e}x".to_owned()]];
        assert_eq!(columns(&["table"], &rows), "table\n\\u{1b}[2J\\r\\n\\u{9b}31m\\u{202e}x\n");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [thousands(7), thousands(1_234), thousands(1_234_567)],
            ["7", "1,234", "1,234,567"]
        );
        assert_eq!([bytes(12), bytes(1 << 20)], ["12 B", "1.0 MiB"]);
    }
}
