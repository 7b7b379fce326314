//! `flowguard lineage`: which table is made from which.

use clap::{Args, ValueEnum};

use super::{Session, left_out, output};
use crate::error::{Error, Result};
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

/// Fails, after it printed the rest, if models are left out of it: what they read may be unknown.
pub fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let models = ModelSet::read_usable(&session.config()?.project)?;
    left_out::say_models(&models);
    match arguments.output {
        Form::Json => output::write_json(&lineage::to_json(&models))?,
        Form::Dot => output::write_text(&lineage::to_dot(&models))?,
    }
    match models.left_out().len() + models.strays().len() {
        0 => Ok(()),
        1 => Err(Error::invalid("1 model is left out").hint("flowguard check")),
        count => {
            Err(Error::invalid(format!("{count} models are left out")).hint("flowguard check"))
        }
    }
}
