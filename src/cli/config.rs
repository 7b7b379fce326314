//! `flowguard config`: the settings in force and where each came from.

use clap::Args;

use super::{Output, Session, output};
use crate::error::Result;

/// Show the settings in force and where each came from
///
/// Flags win over FLOWGUARD_* variables, which win over flowguard.toml, which wins over defaults.
/// Secrets are never shown.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  flowguard config --lake s3://lakehouse --set ingest.flush_age_ms_max=10s"
)]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let config = session.config()?;
    let effective = config.effective();
    match arguments.output {
        Output::Text => {
            let rows: Vec<Vec<String>> = effective
                .iter()
                .map(|e| vec![e.key.clone(), e.value.clone(), e.origin.clone()])
                .collect();
            output::write_text(&output::columns(&["setting", "value", "from"], &rows))
        }
        Output::Json => {
            let settings: Vec<_> = effective
                .iter()
                .map(|e| serde_json::json!({"key": e.key, "value": e.value, "from": e.origin}))
                .collect();
            output::write_json(&serde_json::Value::Array(settings))
        }
    }
}
