//! Commands of the shell: what begins with a backslash.

use clap::ValueEnum;

use crate::cli::sink::Form;
use crate::error::{Error, Result, did_you_mean};
use crate::table::TableName;

/// Name, argument and what it does, in the order of the help.
pub const COMMANDS: [(&str, &str, &str); 6] = [
    ("\\d", "", "list tables"),
    ("\\d", "TABLE", "describe the columns of a table"),
    ("\\o", "FORM", "show results as table, csv or json"),
    ("\\timing", "", "switch the seconds of each statement on or off"),
    ("\\?", "", "show this"),
    ("\\q", "", "leave, as Ctrl-D does"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Tables,
    Columns(TableName),
    Form(Form),
    Timing,
    Help,
    Quit,
}

impl Command {
    /// A `;` after it is as good as none.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim().trim_end_matches(';').trim_end();
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match (name, argument.trim()) {
            ("\\d", "") => Ok(Self::Tables),
            ("\\d", table) => table.parse().map(Self::Columns),
            ("\\o", form) => self::form(form).map(Self::Form),
            ("\\timing", "") => Ok(Self::Timing),
            ("\\?" | "\\help" | "\\h", "") => Ok(Self::Help),
            ("\\q" | "\\quit", "") => Ok(Self::Quit),
            _ => Err(unknown(name)),
        }
    }
}

/// Forms that are text: the others are for files.
pub fn form(name: &str) -> Result<Form> {
    match Form::from_str(name, true) {
        Ok(form @ (Form::Table | Form::Csv | Form::Json)) => Ok(form),
        Ok(Form::Parquet | Form::Arrow) => Err(Error::invalid(format!("`{name}` is not text"))
            .hint(format!("flowguard query --output {name} writes it to a file"))),
        Err(_) => Err(Error::invalid(format!("there is no form `{name}`"))
            .hint("forms are table, csv and json")),
    }
}

fn unknown(name: &str) -> Error {
    let error = Error::invalid(format!("there is no command `{name}` like that"));
    let known = COMMANDS.map(|(name, ..)| name);
    match did_you_mean(name, known).filter(|close| *close != name) {
        Some(close) => error.hint(format!("did you mean `{close}`?")),
        None => error.hint("`\\?` shows all commands"),
    }
}

pub fn help() -> String {
    let lines = COMMANDS.map(|(name, argument, what)| {
        let usage = format!("{name} {argument}");
        format!("  {usage:<10} {what}\n")
    });
    format!(
        "{}  Statements end with `;` and may span lines. Tab completes tables, columns and keywords;\n  \
         Ctrl-C ends the statement that runs.",
        lines.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Command) {
        assert_eq!(Command::parse(text).unwrap(), expect);
    }

    #[track_caller]
    fn check_refused(text: &str, hint: &str) {
        assert_eq!(Command::parse(text).unwrap_err().hint.as_deref(), Some(hint));
    }

    #[test]
    fn commands_are_read_with_and_without_a_semicolon() {
        check("\\d", Command::Tables);
        check("\\d;", Command::Tables);
        check("\\d  gold.daily_metrics ;", Command::Columns("gold.daily_metrics".parse().unwrap()));
        check("\\o CSV", Command::Form(Form::Csv));
        check("\\timing", Command::Timing);
        check("\\help", Command::Help);
        check("\\q ", Command::Quit);
    }

    #[test]
    fn everything_else_gets_a_hint() {
        check_refused("\\timings", "did you mean `\\timing`?");
        check_refused("\\exit", "`\\?` shows all commands");
        check_refused("\\q now", "`\\?` shows all commands");
        check_refused("\\o xml", "forms are table, csv and json");
        check_refused("\\o parquet", "flowguard query --output parquet writes it to a file");
    }
}
