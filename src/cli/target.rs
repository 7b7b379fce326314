//! `flowguard target`: whether a warehouse is fit to be exported to.

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::export::surroundings;
use super::{Session, output};
use crate::error::{Error, ErrorKind, Result};

/// Look at the warehouses that tables are exported to
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  flowguard target test finance")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the driver, connect, and say what is missing
    Test {
        /// As in dags.yaml
        name: String,
    },
}

/// Fails if rights are missing, after printing the statements that give them; else tries the
/// target.
pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let Command::Test { name } = &arguments.command;
    let app = session.app()?;
    let target = app.dags()?.target(name)?;
    let mut to = surroundings(session, &app).open_untouched(target, Uuid::now_v7()).await?;
    let missing = to.missing_rights(&app.exports()?.exported_to(target)?).await?;
    if !missing.is_empty() {
        let rows: Vec<Vec<String>> =
            missing.into_iter().map(|missing| vec![missing.right, missing.given_by]).collect();
        output::write_text(&output::columns(&["missing right", "given by"], &rows))?;
        let message = format!("`{name}` lacks rights that an export needs");
        return Err(Error::new(ErrorKind::Denied, message)
            .hint("have the database's owner run the statements above, then test again"));
    }
    to.prepare().await?;
    let version = to.test().await?;
    let driver = to.driver().map_or(String::new(), |file| {
        format!("driver: {}\nhard values arrive as they were sent: yes\n", file.display())
    });
    output::write_text(&format!(
        "{name}: {version}\nmay create schemas, tables and rows: yes\n{driver}"
    ))
}
