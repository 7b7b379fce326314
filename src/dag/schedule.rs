//! Cron schedules with the habits of crontab. Fields are checked and translated here, because the
//! `cron` crate numbers Sunday 1, wants seconds, and joins day of month and day of week by "and".

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::error::{Error, Result};
use crate::interval::Instant;

/// Furthest that a clock is set back or forward by daylight saving, with room to spare: Antarctica's
/// Troll station moves by two hours.
const SHIFT_MAX: TimeDelta = TimeDelta::hours(3);

/// When a DAG runs: `minute hour day-of-month month day-of-week` in a time zone.
///
/// As in crontab(5): Sunday is 0 and 7; names (`mon`, `jan`) are fine; when both day fields are
/// restricted, either is enough. Daylight saving as in Vixie cron: a fixed time that is skipped in
/// spring runs at the first moment after the gap, one that occurs twice in autumn runs the first
/// time only; with `*` in the hour field the schedule follows real time through both.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    timezone: Tz,
    /// One, or two that are each enough.
    alternatives: Vec<cron::Schedule>,
    follows_real_time: bool,
}

struct Field {
    name: &'static str,
    plural: &'static str,
    minimum: u32,
    maximum: u32,
    /// Names of values, from `minimum` up.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "a minute", plural: "minutes", minimum: 0, maximum: 59, names: &[] },
    Field { name: "an hour", plural: "hours", minimum: 0, maximum: 23, names: &[] },
    Field {
        name: "a day of the month",
        plural: "days of the month",
        minimum: 1,
        maximum: 31,
        names: &[],
    },
    Field { name: "a month", plural: "months", minimum: 1, maximum: 12, names: &MONTHS },
    Field {
        name: "a day of the week",
        plural: "days of the week",
        minimum: 0,
        maximum: 7,
        names: &WEEKDAYS,
    },
];
const SHORTHANDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Schedule {
    /// Fails with a hint when a field is not one, or when the schedule never comes round.
    pub fn new(text: &str, timezone: Tz) -> Result<Self> {
        let shorthand = SHORTHANDS.iter().find(|(name, _)| *name == text.trim());
        let expanded = shorthand.map_or(text, |(_, fields)| fields);
        let written: Vec<&str> = expanded.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = written.as_slice() else {
            let message = format!("a schedule has five fields, found {}", written.len());
            return Err(Error::invalid(message)
                .hint("minute hour day-of-month month day-of-week, such as 30 2 * * *"));
        };
        let mut fields = Vec::with_capacity(FIELDS.len());
        for (field, text) in FIELDS.iter().zip([minute, hour, day, month, weekday]) {
            fields.push(listed(&field.values(text)?));
        }
        // Vixie cron's rule: a field that begins with `*` does not restrict, whatever its step.
        let is_open = |field: &str| field.starts_with('*');
        let join = |day: &str, weekday: &str| {
            let line = format!("0 {} {} {day} {} {weekday}", fields[0], fields[1], fields[3]);
            cron::Schedule::from_str(&line).map_err(|error| {
                Error::invalid(format!("`{text}` is not a schedule")).hint(error.to_string())
            })
        };
        let (days, weekdays) = (fields[2].as_str(), fields[4].as_str());
        let alternatives = match is_open(day) || is_open(weekday) {
            true => vec![join(days, weekdays)?],
            false => vec![join(days, "*")?, join("*", weekdays)?],
        };
        let schedule = Self {
            text: text.trim().to_owned(),
            timezone,
            alternatives,
            follows_real_time: is_open(hour),
        };
        if schedule.next_after(Instant(0)).is_none() {
            return Err(Error::invalid(format!("`{text}` never comes round"))
                .hint("the month has no such day"));
        }
        Ok(schedule)
    }

    /// The first run strictly after `instant`; `None` beyond the year 2100.
    pub fn next_after(&self, instant: Instant) -> Option<Instant> {
        let local = instant.to_datetime()?.with_timezone(&self.timezone).naive_local();
        // The crate only ever sees local wall-clock time, dressed as UTC, where no hour is missing.
        // Looking back and ahead by a shift finds times that daylight saving moved.
        let from = local.checked_sub_signed(SHIFT_MAX)?.and_utc();
        let found = self.alternatives.iter().filter_map(|alternative| {
            let mut best: Option<DateTime<Utc>> = None;
            for candidate in alternative.after(&from) {
                let wall = candidate.naive_utc();
                if let Some(best) = best
                    && wall > best.with_timezone(&self.timezone).naive_local() + SHIFT_MAX
                {
                    break;
                }
                let runs = self.instants_of(wall).into_iter().flatten();
                let later = runs.filter(|run| run.timestamp_micros() > instant.0);
                best = later.chain(best).min();
            }
            best
        });
        found.min().map(Instant::from_datetime)
    }

    /// When a wall-clock time happens: never, once or twice.
    fn instants_of(&self, wall: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        let mapped = self.timezone.from_local_datetime(&wall);
        let first = mapped.earliest().map(|found| found.to_utc());
        let second = mapped.latest().map(|found| found.to_utc()).filter(|_| self.follows_real_time);
        match first {
            Some(_) => [first, second],
            None if self.follows_real_time => [None, None],
            None => [self.after_gap(wall), None],
        }
    }

    /// The first moment after the gap that `wall` falls into. No zone has had one longer than a day.
    fn after_gap(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        let probes = (1..=24 * 60).map(|minutes| wall + TimeDelta::minutes(minutes));
        let mut found =
            probes.filter_map(|probe| self.timezone.from_local_datetime(&probe).earliest());
        found.next().map(|found| found.to_utc())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// For the crate: every value spelled out, or `*`.
fn listed(values: &Option<Vec<u32>>) -> String {
    match values {
        None => "*".into(),
        Some(values) => values.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    }
}

impl Field {
    /// The values a field allows, in the crate's numbers; `None` for all.
    fn values(&self, text: &str) -> Result<Option<Vec<u32>>> {
        if text == "*" {
            return Ok(None);
        }
        let mut values = Vec::new();
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(self.step(step)?)),
                None => (part, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.minimum, self.maximum),
                Some((first, last)) => (self.value(first)?, self.range_end(last)?),
                // `5/15` counts on from 5.
                None if step.is_some() => (self.value(range)?, self.maximum),
                None => (self.value(range)?, self.value(range)?),
            };
            if first > last {
                return Err(Error::invalid(format!("the range `{range}` runs backwards"))
                    .hint("the smaller value comes first"));
            }
            values.extend((first..=last).step_by(step.unwrap_or(1) as usize));
        }
        if self.is_weekday() {
            // `*/2` means 0, 2, 4, 6: the second name of Sunday must not add a day.
            if text.starts_with('*') {
                values.retain(|value| *value < 7);
            }
            values.iter_mut().for_each(|value| *value = *value % 7 + 1);
        }
        values.sort_unstable();
        values.dedup();
        Ok(Some(values))
    }

    fn is_weekday(&self) -> bool {
        self.names.len() == WEEKDAYS.len()
    }

    fn value(&self, text: &str) -> Result<u32> {
        let lowercase = text.to_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lowercase) {
            return Ok(index as u32 + self.minimum);
        }
        let number = match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        number.filter(|number| (self.minimum..=self.maximum).contains(number)).ok_or_else(|| {
            let mut hint = format!("{} are {} to {}", self.plural, self.minimum, self.maximum);
            if let (Some(first), Some(last)) = (self.names.first(), self.names.last()) {
                hint.push_str(&format!(", or {first} to {last}"));
            }
            Error::invalid(format!("`{text}` is not {}", self.name)).hint(hint)
        })
    }

    /// `fri-sun` ends on Sunday the seventh day.
    fn range_end(&self, text: &str) -> Result<u32> {
        let value = self.value(text)?;
        Ok(if self.is_weekday() && value == 0 { 7 } else { value })
    }

    fn step(&self, text: &str) -> Result<u32> {
        text.parse::<u32>().ok().filter(|step| (1..=self.maximum).contains(step)).ok_or_else(|| {
            Error::invalid(format!("`/{text}` is not a step"))
                .hint(format!("a step of {} is 1 to {}", self.plural, self.maximum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next runs after `from`, in local time with its offset.
    fn check(text: &str, timezone: Tz, from: &str, expect: &[&str]) {
        let schedule = Schedule::new(text, timezone).unwrap();
        let mut at = Instant::parse(from, timezone).unwrap();
        let mut found = Vec::new();
        for _ in expect {
            at = schedule.next_after(at).unwrap();
            let local = at.to_datetime().unwrap().with_timezone(&timezone);
            found.push(local.format("%a %Y-%m-%d %H:%M %z").to_string());
        }
        assert_eq!(found, expect, "{text}");
    }

    fn refused(text: &str) -> String {
        let error = Schedule::new(text, Tz::UTC).unwrap_err();
        format!("{}; {}", error.message, error.hint.unwrap())
    }

    #[test]
    fn sunday_is_0_and_7_and_has_a_name() {
        for text in ["0 6 * * 0", "0 6 * * 7", "0 6 * * sun", "0 6 * * SUN"] {
            check(
                text,
                Tz::UTC,
                "2026-06-01",
                &["Sun 2026-06-07 06:00 +0000", "Sun 2026-06-14 06:00 +0000"],
            );
        }
        check("0 6 * * 1", Tz::UTC, "2026-06-02", &["Mon 2026-06-08 06:00 +0000"]);
        check(
            "0 6 * * fri-sun",
            Tz::UTC,
            "2026-06-01",
            &[
                "Fri 2026-06-05 06:00 +0000",
                "Sat 2026-06-06 06:00 +0000",
                "Sun 2026-06-07 06:00 +0000",
                "Fri 2026-06-12 06:00 +0000",
            ],
        );
        check(
            "0 6 * * */3",
            Tz::UTC,
            "2026-06-01",
            &[
                "Wed 2026-06-03 06:00 +0000",
                "Sat 2026-06-06 06:00 +0000",
                "Sun 2026-06-07 06:00 +0000",
            ],
        );
    }

    #[test]
    fn either_day_field_is_enough_when_both_are_restricted() {
        check(
            "0 0 13 * 5",
            Tz::UTC,
            "2026-06-06",
            &[
                "Fri 2026-06-12 00:00 +0000",
                "Sat 2026-06-13 00:00 +0000",
                "Fri 2026-06-19 00:00 +0000",
            ],
        );
        check("0 0 13 * *", Tz::UTC, "2026-06-06", &["Sat 2026-06-13 00:00 +0000"]);
    }

    #[test]
    fn a_run_is_strictly_after_the_instant() {
        check("0 0 * * *", Tz::UTC, "2026-06-06T00:00", &["Sun 2026-06-07 00:00 +0000"]);
    }

    #[test]
    fn a_time_skipped_in_spring_runs_right_after_the_gap() {
        check(
            "30 2 * * *",
            Tz::Europe__Rome,
            "2026-03-28T00:00",
            &[
                "Sat 2026-03-28 02:30 +0100",
                "Sun 2026-03-29 03:00 +0200",
                "Mon 2026-03-30 02:30 +0200",
            ],
        );
    }

    #[test]
    fn a_time_repeated_in_autumn_runs_once() {
        check(
            "30 2 * * *",
            Tz::Europe__Rome,
            "2026-10-25T00:00",
            &["Sun 2026-10-25 02:30 +0200", "Mon 2026-10-26 02:30 +0100"],
        );
    }

    #[test]
    fn every_hour_means_every_real_hour() {
        check(
            "0 * * * *",
            Tz::Europe__Rome,
            "2026-10-25T01:00",
            &[
                "Sun 2026-10-25 02:00 +0200",
                "Sun 2026-10-25 02:00 +0100",
                "Sun 2026-10-25 03:00 +0100",
            ],
        );
        check(
            "*/30 * * * *",
            Tz::Europe__Rome,
            "2026-03-29T01:00",
            &[
                "Sun 2026-03-29 01:30 +0100",
                "Sun 2026-03-29 03:00 +0200",
                "Sun 2026-03-29 03:30 +0200",
            ],
        );
    }

    #[test]
    fn shorthands_lists_steps_and_leap_days() {
        check("@weekly", Tz::UTC, "2026-06-01", &["Sun 2026-06-07 00:00 +0000"]);
        check(
            "5/20 1,3 * jun *",
            Tz::UTC,
            "2026-06-01T01:30",
            &["Mon 2026-06-01 01:45 +0000", "Mon 2026-06-01 03:05 +0000"],
        );
        check("0 0 29 2 *", Tz::UTC, "2026-01-01", &["Tue 2028-02-29 00:00 +0000"]);
    }

    #[test]
    fn bad_schedules_say_which_field() {
        assert_eq!(
            refused("0 0 * *"),
            "a schedule has five fields, found 4; minute hour day-of-month month day-of-week, such as 30 2 * * *"
        );
        assert_eq!(refused("60 0 * * *"), "`60` is not a minute; minutes are 0 to 59");
        assert_eq!(
            refused("0 0 * * 8"),
            "`8` is not a day of the week; days of the week are 0 to 7, or sun to sat"
        );
        assert_eq!(refused("*/0 0 * * *"), "`/0` is not a step; a step of minutes is 1 to 59");
        assert_eq!(
            refused("0 9-5 * * *"),
            "the range `9-5` runs backwards; the smaller value comes first"
        );
        assert_eq!(
            refused("0 0 30 2 *"),
            "`0 0 30 2 *` never comes round; the month has no such day"
        );
    }
}
