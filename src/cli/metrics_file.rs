//! Results of exports and comparisons as a file for Prometheus' node exporter, which reads what
//! programs leave that don't run all the time. Keeps what earlier runs said of other tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Session;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::table::TableName;

const MICROS_PER_SECOND: f64 = 1e6;
/// Name, what it tells. Each has the labels `target` and `table`.
const EXPORT: [(&str, &str); 2] = [
    ("flowguard_export_success", "1 if the last export brought the table to its newest version."),
    ("flowguard_export_time_seconds", "When the last export ended, in seconds since 1970."),
];
const PARITY: [(&str, &str); 2] = [
    ("flowguard_export_parity", "1 if the last comparison found the table equal to the lake's."),
    ("flowguard_export_parity_time_seconds", "When it was compared, in seconds since 1970."),
];

#[derive(Debug, Args)]
pub struct MetricsArguments {
    /// Note the results for Prometheus in this file, as node exporter's textfile collector reads it
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

/// The file, if there is to be one.
pub struct Metrics {
    file: Option<PathBuf>,
    clock: Clock,
}

impl MetricsArguments {
    /// A relative path begins at the current folder, not at the project's.
    pub fn open(&self, session: &Session) -> Metrics {
        let folder = &session.process.current_folder;
        let file = self.metrics_file.as_ref().map(|file| folder.join(file));
        Metrics { file, clock: session.process.clock.clone() }
    }
}

impl Metrics {
    /// Written at once, if there is a file; what it says of comparisons stays.
    pub fn exported(&self, target: &str, name: &TableName, succeeded: bool) -> Result<()> {
        self.note(EXPORT, target, name, succeeded)
    }

    pub fn compared(&self, target: &str, name: &TableName, is_equal: bool) -> Result<()> {
        self.note(PARITY, target, name, is_equal)
    }

    /// Writes the file whole each time, so that nobody reads a part of it, and a run that ends early
    /// has said what it knew.
    fn note(
        &self,
        metrics: [(&str, &str); 2],
        target: &str,
        name: &TableName,
        is_good: bool,
    ) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |source: std::io::Error| {
            let message = format!("cannot write the metrics file `{}`", file.display());
            Error::new(ErrorKind::Denied, message).source(source)
        };
        let mut samples = match std::fs::read_to_string(file) {
            Ok(text) => read(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error)),
        };
        let values = [f64::from(u8::from(is_good)), self.clock.micros() as f64 / MICROS_PER_SECOND];
        for ((metric, _), value) in metrics.iter().zip(values) {
            // Both names are identifiers.
            samples.insert(format!("{metric}{{target=\"{target}\",table=\"{name}\"}}"), value);
        }
        let aside = beside(file);
        std::fs::write(&aside, text(&samples)).map_err(failed)?;
        std::fs::rename(&aside, file).map_err(failed)
    }
}

/// The collector only reads files that end in `.prom`.
fn beside(file: &Path) -> PathBuf {
    file.with_extension("new")
}

fn read(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(sample).collect()
}

fn text(samples: &BTreeMap<String, f64>) -> String {
    let mut text = String::new();
    for (metric, help) in EXPORT.iter().chain(&PARITY) {
        let own = samples.iter().filter(|(name, _)| name.split('{').next() == Some(*metric));
        let lines: String = own.map(|(name, value)| format!("{name} {value}\n")).collect();
        if !lines.is_empty() {
            text.push_str(&format!("# HELP {metric} {help}\n# TYPE {metric} gauge\n{lines}"));
        }
    }
    text
}
