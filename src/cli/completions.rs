//! `flowguard completions`: scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output};
use crate::error::Result;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  flowguard completions bash > ~/.local/share/bash-completion/completions/flowguard"
)]
pub struct Arguments {
    shell: Shell,
}

pub fn execute(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "flowguard", &mut script);
    output::write_text(&String::from_utf8_lossy(&script))
}
