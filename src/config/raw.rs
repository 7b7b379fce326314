//! Settings as texts with their origin: `flowguard.toml`, then the environment, then flags, each
//! over the one before. Knows which keys exist, not what values mean.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::option_names::OPTION_NAMES;
use super::settings::{self, FOREIGN_PREFIXES, Form, OPTIONS_KEY, SETTINGS, VARIABLE_PREFIX};
use crate::error::Diagnostic;
use crate::source::{Source, choice_hint};

/// Deepest nesting of tables read.
const DEPTH_MAX: usize = 8;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Bytes of the value in the file.
    File(Range<usize>),
    Variable(String),
    Flag,
}

/// A value as text, not yet understood.
#[derive(Debug, Clone)]
pub struct Raw {
    pub text: String,
    pub origin: Origin,
}

/// Values by key; a client option's key is `kafka.options.<name>`.
pub struct Layers<'a> {
    pub values: BTreeMap<String, Raw>,
    pub problems: Vec<Diagnostic>,
    file: &'a Source,
    variables: &'a BTreeMap<String, String>,
}

impl<'a> Layers<'a> {
    /// Never fails: what is wrong is in `problems`.
    pub fn read(
        file: &'a Source,
        variables: &'a BTreeMap<String, String>,
        flags: &[(String, String)],
    ) -> Self {
        let mut layers = Self { values: BTreeMap::new(), problems: Vec::new(), file, variables };
        layers.read_file();
        layers.read_variables();
        for (key, text) in flags {
            layers.read_flag(key, text);
        }
        layers
    }

    /// A problem with a value, at the place it came from.
    pub fn report(&mut self, key: &str, message: String, hint: Option<String>) {
        let raw = self.values.get(key).cloned();
        match raw.as_ref().map(|raw| raw.origin.clone()) {
            Some(Origin::File(span)) => {
                // A URL with an `@` carries credentials.
                let is_hidden = is_secret(key) || raw.is_some_and(|raw| raw.text.contains('@'));
                self.report_at(span, is_hidden, message, hint);
            }
            Some(Origin::Variable(name)) => {
                self.report_outside("environment", format!("`{name}`: {message}"), hint);
            }
            Some(Origin::Flag) => self.report_outside("command line", message, hint),
            None => self.report_outside("settings", message, hint),
        }
    }

    fn report_outside(&mut self, place: &str, message: String, hint: Option<String>) {
        self.problems.push(Diagnostic {
            file: PathBuf::from(place),
            line: 0,
            column: 0,
            message,
            text: String::new(),
            width: 0,
            hint,
        });
    }

    /// The line is shown only up to the end of `span`, and not at all where an earlier value on it
    /// could be a secret.
    fn report_at(
        &mut self,
        span: Range<usize>,
        is_hidden: bool,
        message: String,
        hint: Option<String>,
    ) {
        let position = self.file.position(span);
        let mut diagnostic = self.file.diagnostic(position, message, hint);
        let end = position.column - 1 + position.width;
        let shown: String = diagnostic.text.chars().take(end).collect();
        let before: String = shown.chars().take(position.column - 1).collect();
        let is_inline = before.contains('{') || before.matches('=').count() > 1;
        diagnostic.text = if is_hidden || is_inline { String::new() } else { shown };
        self.problems.push(diagnostic);
    }

    fn read_file(&mut self) {
        let file = self.file;
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        for error in errors {
            let message = format!("bad TOML: {}", error.message().replace('\n', ", "));
            self.report_at(error.span().unwrap_or(0..0), true, message, None);
        }
        self.read_table(table.get_ref(), "", 0);
    }

    fn read_table(&mut self, table: &DeTable<'_>, prefix: &str, depth: usize) {
        for (key, value) in table.iter() {
            let path = match prefix {
                "" => key.get_ref().to_string(),
                _ => format!("{prefix}.{}", key.get_ref()),
            };
            let is_option =
                path.strip_prefix(OPTIONS_KEY).is_some_and(|rest| rest.starts_with('.'));
            let setting = settings::find(&path);
            match value.get_ref() {
                DeValue::Table(inner) if depth < DEPTH_MAX && has_keys_below(&path) => {
                    self.read_table(inner, &path, depth + 1);
                }
                _ if !is_option && setting.is_none() => {
                    let message = match has_keys_below(&path) {
                        true => format!("`{path}` must be a table"),
                        false => format!("unknown key `{path}`"),
                    };
                    self.report_at(key.span(), false, message, Some(unknown_hint(&path)));
                }
                value_read => {
                    let form = setting.map_or(Form::Text, |setting| setting.form);
                    match text_of(value_read, form, is_option) {
                        Ok(text) => self.insert_expanded(path, &text, value.span()),
                        Err(message) => {
                            let is_hidden = is_secret(&path);
                            let message = format!("`{path}` {message}");
                            self.report_at(value.span(), is_hidden, message, None);
                        }
                    }
                }
            }
        }
    }

    fn insert_expanded(&mut self, path: String, text: &str, span: Range<usize>) {
        match expand(text, self.variables) {
            Ok(text) => {
                self.values.insert(path, Raw { text, origin: Origin::File(span) });
            }
            Err(Unexpanded { reference, message, hint }) => {
                let is_hidden = is_secret(&path);
                let written = self.file.text.get(span.clone()).unwrap_or_default();
                let place = match written.find(&reference) {
                    Some(at) => span.start + at..span.start + at + reference.len(),
                    None => span,
                };
                self.report_at(place, is_hidden, message, Some(hint));
            }
        }
    }

    fn read_variables(&mut self) {
        for (name, text) in self.variables {
            if !name.starts_with(VARIABLE_PREFIX)
                || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            {
                continue;
            }
            let found = SETTINGS.iter().find(|setting| setting.variable() == *name);
            let origin = Origin::Variable(name.clone());
            match found {
                None => {
                    let names: Vec<String> = SETTINGS.iter().map(|s| s.variable()).collect();
                    let names = names.iter().map(String::as_str);
                    let hint = match crate::error::did_you_mean(name, names) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => "`flowguard config` lists the settings and their variables".into(),
                    };
                    let message = format!("unknown variable `{name}`");
                    self.report_outside("environment", message, Some(hint));
                }
                Some(setting) if setting.form == Form::Options => {
                    self.read_options(text, &origin);
                }
                Some(setting) => {
                    let raw = Raw { text: text.clone(), origin };
                    self.values.insert(setting.key.to_owned(), raw);
                }
            }
        }
    }

    /// `k=v` lines or `;`-separated. Nothing of an entry that is none is shown: it may be the rest of
    /// a password with a `;` in it.
    fn read_options(&mut self, text: &str, origin: &Origin) {
        for (number, entry) in entries(text).iter().enumerate() {
            let found = entry.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let problem = match found {
                Some((name, value)) if OPTION_NAMES.contains(&name) => {
                    let raw = Raw { text: value.to_owned(), origin: origin.clone() };
                    self.values.insert(format!("{OPTIONS_KEY}.{name}"), raw);
                    continue;
                }
                Some(_) => "names no option of librdkafka",
                None => "is not `name=value`",
            };
            let place = match origin {
                Origin::Flag => "command line",
                _ => "environment",
            };
            let message = format!("entry {} of `{OPTIONS_KEY}` {problem}", number + 1);
            let hint = "entries are separated by line breaks or `;`; a `;` within a value is \
                        written `;;`";
            self.report_outside(place, message, Some(hint.into()));
        }
    }

    fn read_flag(&mut self, key: &str, text: &str) {
        let is_option = key.strip_prefix(OPTIONS_KEY).is_some_and(|rest| rest.starts_with('.'));
        match settings::find(key) {
            Some(setting) if setting.form == Form::Options => {
                self.read_options(text, &Origin::Flag)
            }
            None if !is_option => {
                let message = format!("unknown setting `{key}`");
                self.report_outside("command line", message, Some(unknown_hint(key)));
            }
            _ => {
                let raw = Raw { text: text.to_owned(), origin: Origin::Flag };
                self.values.insert(key.to_owned(), raw);
            }
        }
    }
}

/// What stands between line breaks and `;`, without what is empty; `;;` is a `;`.
fn entries(text: &str) -> Vec<String> {
    let (mut entries, mut entry) = (Vec::new(), String::new());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ';' if letters.next_if_eq(&';').is_some() => entry.push(';'),
            ';' | '\n' => entries.push(std::mem::take(&mut entry)),
            letter => entry.push(letter),
        }
    }
    entries.push(entry);
    entries.retain(|entry| !entry.trim().is_empty());
    entries
}

/// Whether the value of a key must never be shown.
pub fn is_secret(key: &str) -> bool {
    if let Some(option) = key.strip_prefix(OPTIONS_KEY) {
        let option = option.to_lowercase();
        return ["password", "secret", "key"].iter().any(|word| option.contains(word))
            // The value of this one carries a password inside.
            || option.contains("jaas")
            || option.contains("oauthbearer.config")
            // So may a name that is misspelt.
            || option.strip_prefix('.').is_some_and(|name| !OPTION_NAMES.contains(&name));
    }
    settings::find(key).is_some_and(|setting| setting.is_secret)
}

fn has_keys_below(path: &str) -> bool {
    path.starts_with(OPTIONS_KEY)
        || SETTINGS
            .iter()
            .any(|setting| setting.key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown_hint(path: &str) -> String {
    let section = path.split_once('.').map_or("", |(section, _)| section);
    let in_section: Vec<&str> = SETTINGS
        .iter()
        .map(|setting| setting.key)
        .filter(|key| key.split_once('.').is_some_and(|(name, _)| name == section))
        .collect();
    if in_section.is_empty() {
        let sections = ["s3", "kafka", "ingest", "engine", "server", "remote", "log"];
        let keys = SETTINGS.iter().map(|setting| setting.key).chain(sections);
        return match crate::error::did_you_mean(path, keys) {
            Some(key) => format!("did you mean `{key}`?"),
            None => {
                "sections are `s3`, `kafka`, `ingest`, `engine`, `server`, `remote` and `log`; `lake` stands above them".into()
            }
        };
    }
    choice_hint(path, in_section.iter().copied(), "keys are")
}

/// A string is fine for every form, because `${VAR}` needs one.
fn text_of(value: &DeValue<'_>, form: Form, is_option: bool) -> Result<String, String> {
    let expected = match form {
        Form::Text if !is_option => "text",
        Form::Text => "text, a number or a boolean",
        Form::Flag => "true or false",
        Form::Count(_) => "a whole number",
        Form::Bytes => "a size such as \"64MiB\"",
        Form::Millis => "a duration such as \"30s\"",
        Form::Choice(_) => "text",
        Form::Options => "a table",
    };
    let takes_numbers = matches!(form, Form::Count(_) | Form::Bytes | Form::Millis) || is_option;
    match value {
        DeValue::String(text) if form != Form::Options => Ok(text.to_string()),
        DeValue::Integer(number) if takes_numbers && number.radix() == 10 => {
            Ok(number.as_str().to_owned())
        }
        DeValue::Float(number) if is_option => Ok(number.as_str().to_owned()),
        DeValue::Boolean(flag) if form == Form::Flag || is_option => Ok(flag.to_string()),
        other => Err(format!("must be {expected}, found {}", described(other))),
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Why a reference to a variable has no value, for whoever knows where its text stands.
pub(super) struct Unexpanded {
    pub reference: String,
    pub message: String,
    pub hint: String,
}

/// Replaces `${VAR}` and `${VAR:-default}`; `$${` stands for `${`. A default holds no `}`, and what
/// a variable holds is not expanded again.
pub(super) fn expand(
    text: &str,
    variables: &BTreeMap<String, String>,
) -> Result<String, Unexpanded> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err(Unexpanded {
                reference: "${".into(),
                message: "`${` is not closed".into(),
                hint: "write `${VAR}`, or `$${` for the characters themselves".into(),
            });
        };
        let (reference, after) = reference.split_at(end + 1);
        let inner = &reference[2..end];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        // As in a shell, an empty variable takes the default.
        let value = variables.get(name).map(String::as_str);
        let value = value.filter(|value| default.is_none() || !value.is_empty()).or(default);
        match value {
            Some(value) if is_name => expanded.push_str(value),
            _ if !is_name => {
                return Err(Unexpanded {
                    reference: reference.into(),
                    message: "not the name of a variable".into(),
                    hint: "write `${VAR}` or `${VAR:-default}`".into(),
                });
            }
            _ => {
                return Err(Unexpanded {
                    reference: reference.into(),
                    message: format!("variable `{name}` is not set"),
                    hint: format!("set it, or give a default: `${{{name}:-default}}`"),
                });
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
