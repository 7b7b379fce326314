//! `flowguard completions`: scripts for shells.

use clap::{Args, Command};
use clap_complete::Shell;

use super::output;
use crate::error::Result;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  flowguard completions bash > ~/.local/share/bash-completion/completions/flowguard"
)]
pub struct Arguments {
    shell: Shell,
}

/// `command` is the whole command line.
pub fn execute(arguments: &Arguments, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "flowguard", &mut script);
    output::write_text(&String::from_utf8_lossy(&script))
}
