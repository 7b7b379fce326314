//! What of a project a command does without, for people.

use super::output;
use crate::app::App;
use crate::model::ModelSet;

/// A line for each broken file, and for each model that needs one.
pub fn say(app: &App, models: &ModelSet) {
    say_models(models);
    if let Err(error) = app.dags() {
        output::say(&format!("warning: `dags.yaml` is left out: {}", error.line()));
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
