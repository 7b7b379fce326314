//! `flowguard lineage`: which table is made from which.

use clap::{Args, ValueEnum};

use super::{Session, output};
use crate::error::Result;
use crate::lineage;
use crate::model::ModelSet;

/// Print which table is made from which
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  flowguard lineage --output dot | dot -Tsvg > lineage.svg")]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "json")]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Json,
    Dot,
}

pub fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let models = ModelSet::read(&session.config()?.project)?;
    match arguments.output {
        Form::Json => output::write_json(&lineage::to_json(&models)),
        Form::Dot => output::write_text(&lineage::to_dot(&models)),
    }
}
