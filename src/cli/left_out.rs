//! What of a project a command does without, for people.

use super::output;
use crate::app::App;
use crate::model::ModelSet;

/// A line for each broken file, and for each model that needs one.
pub fn say(app: &App, models: &ModelSet) {
    say_models(models);
    match app.dags() {
        Ok(dags) => dags.left_out.iter().for_each(|entry| {
            output::say(&format!("warning: {entry} is left out: {}", entry.error().line()));
        }),
        Err(error) => output::say(&format!("warning: `dags.yaml` is left out: {}", error.line())),
    }
}

pub fn say_models(models: &ModelSet) {
    for stray in models.strays() {
        output::say(&format!("warning: {}", stray.place()));
    }
    for (name, left_out) in models.left_out() {
        output::say(&format!("warning: `{name}` is left out: {}", left_out.reason()));
    }
}
