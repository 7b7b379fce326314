//! `flowguard schema`: JSON Schemas for editors.

use clap::{Args, ValueEnum};

use super::output;
use crate::error::Result;

/// Print the JSON Schema of a model's header or of dags.yaml
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  flowguard schema dags > .vscode/dags.schema.json")]
pub struct Arguments {
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    Model,
    Dags,
}

pub fn execute(arguments: &Arguments) -> Result<()> {
    output::write_text(match arguments.of {
        Of::Model => crate::model::HEADER_SCHEMA,
        Of::Dags => crate::dag::DAGS_SCHEMA,
    })
}
