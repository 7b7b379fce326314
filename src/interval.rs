//! Instants, half-open ranges of them, sets of ranges, and calendar steps in a time zone.
//! Pure arithmetic: no clock is read here.

use std::fmt;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;

use crate::error::{Error, Result};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub i64);

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_HOUR: i64 = 3_600 * MICROS_PER_SECOND;
/// Of 24 hours: days of a time zone can be shorter or longer.
pub const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

impl Instant {
    /// Drops what is finer than a microsecond.
    pub fn from_datetime(datetime: DateTime<Utc>) -> Self {
        Self(datetime.timestamp_micros())
    }

    /// `None` outside chrono's range of about ±262,000 years.
    pub fn to_datetime(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0)
    }

    /// The first instant of a day, counted from 1970-01-01, in `timezone`.
    pub fn of_day(day: i32, timezone: Tz) -> Result<Self> {
        let since = TimeDelta::days(i64::from(day));
        let date = NaiveDate::default().checked_add_signed(since).ok_or_else(|| {
            Error::invalid(format!("day {day} since 1970 is no date of the calendar"))
        })?;
        Self::parse(&date.to_string(), timezone)
    }

    /// The day that it lies in, as [`Self::of_day`] counts; `None` far outside the calendar.
    pub fn day_in(self, timezone: Tz) -> Option<i32> {
        let date = self.to_datetime()?.with_timezone(&timezone).date_naive();
        i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
    }

    /// Reads `2026-01-31`, `2026-01-31T12:00` or `2026-01-31T12:00:00.5` in `timezone`, or any
    /// of the longer forms with `Z` or an offset.
    pub fn parse(text: &str, timezone: Tz) -> Result<Self> {
        if let Ok(datetime) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(datetime.timestamp_micros()));
        }
        let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .or_else(|| {
                let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
                date.and_hms_opt(0, 0, 0)
            })
            .ok_or_else(|| {
                Error::invalid(format!("`{text}` is not a date or time"))
                    .hint("write 2026-01-31, 2026-01-31T12:00:00 or 2026-01-31T12:00:00Z")
            })?;
        Ok(from_local(local, timezone))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime() {
            Some(datetime) if self.0 % MICROS_PER_SECOND == 0 => {
                write!(f, "{}", datetime.format("%Y-%m-%dT%H:%M:%SZ"))
            }
            Some(datetime) => write!(f, "{}", datetime.format("%Y-%m-%dT%H:%M:%S%.6fZ")),
            None => write!(f, "{}µs", self.0),
        }
    }
}

/// The instant of a local wall-clock time. In an autumn overlap the earlier one; in a spring gap
/// the first instant after it.
fn from_local(local: NaiveDateTime, timezone: Tz) -> Instant {
    let mut probe = local;
    // No zone has had a gap longer than a day.
    for _ in 0..=96 {
        if let Some(found) = timezone.from_local_datetime(&probe).earliest() {
            return Instant(found.timestamp_micros());
        }
        probe += chrono::TimeDelta::minutes(15);
    }
    Instant(local.and_utc().timestamp_micros())
}

/// `[start, end)`; never empty in a [`RangeSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    pub start: Instant,
    pub end: Instant,
}

impl Range {
    /// Fails when `end` is not after `start`.
    pub fn new(start: Instant, end: Instant) -> Result<Self> {
        if end <= start {
            return Err(Error::invalid(format!("the range {start} to {end} is empty"))
                .hint("the end is exclusive and must come after the start"));
        }
        Ok(Self { start, end })
    }

    /// The smallest range around both.
    pub fn hull(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    pub fn contains(&self, instant: Instant) -> bool {
        self.start <= instant && instant < self.end
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.end)
    }
}

/// The years 1 to 9999, which every reader of a table knows: what lies beyond is in no interval.
pub const CALENDAR: Range =
    Range { start: Instant(-62_135_596_800_000_000), end: Instant(253_402_300_800_000_000) };

/// Sorted, disjoint, non-adjacent ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// In order of time.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest single range around all of them.
    pub fn hull(&self) -> Option<Range> {
        Some(Range { start: self.0.first()?.start, end: self.0.last()?.end })
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut sorted: Vec<Range> = ranges.into_iter().filter(|r| r.start < r.end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

/// Collects the UTC hours that rows fall into: exact where a minimum and maximum would only be a
/// hull, and small, because neighbours merge.
#[derive(Debug, Default)]
pub struct TouchedHours {
    hours: std::collections::BTreeSet<i64>,
    last: Option<i64>,
}

impl TouchedHours {
    /// `micros` are since 1970 UTC.
    pub fn touch(&mut self, micros: i64) {
        let hour = micros.div_euclid(MICROS_PER_HOUR);
        if self.last != Some(hour) {
            self.hours.insert(hour);
            self.last = Some(hour);
        }
    }

    /// How many hours there are.
    pub fn count(&self) -> usize {
        self.hours.len()
    }

    /// Takes in what `other` has collected.
    pub fn join(&mut self, other: Self) {
        self.hours.extend(other.hours);
    }

    /// Hours that follow each other are one range.
    pub fn ranges(&self) -> RangeSet {
        self.hours
            .iter()
            .map(|hour| Range {
                start: Instant(hour.saturating_mul(MICROS_PER_HOUR)),
                end: Instant(hour.saturating_add(1).saturating_mul(MICROS_PER_HOUR)),
            })
            .collect()
    }
}

/// A calendar step: `1h`, `6h`, `1d`, `1w`, `1mo`. Hours must divide a day; days, weeks and
/// months are always one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    Hours(u32),
    Day,
    /// Starting on Monday.
    Week,
    Month,
}

impl FromStr for Every {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "1d" => return Ok(Every::Day),
            "1w" => return Ok(Every::Week),
            "1mo" => return Ok(Every::Month),
            _ => {}
        }
        match text.strip_suffix('h').map(str::parse::<u32>) {
            Some(Ok(hours)) if hours > 0 && hours < 24 && 24 % hours == 0 => {
                Ok(Every::Hours(hours))
            }
            _ => Err(Error::invalid(format!("`{text}` is not an interval length"))
                .hint("use 1h, 2h, 3h, 4h, 6h, 8h, 12h, 1d, 1w or 1mo")),
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Every::Hours(hours) => write!(f, "{hours}h"),
            Every::Day => f.write_str("1d"),
            Every::Week => f.write_str("1w"),
            Every::Month => f.write_str("1mo"),
        }
    }
}

impl Every {
    /// The interval in `timezone` that holds `instant`; of instants outside of [`CALENDAR`], the
    /// first or the last.
    pub fn interval_of(self, instant: Instant, timezone: Tz) -> Range {
        let local = instant
            .clamp(CALENDAR.start, Instant(CALENDAR.end.0 - 1))
            .to_datetime()
            .unwrap_or(DateTime::UNIX_EPOCH)
            .with_timezone(&timezone)
            .naive_local();
        let date = local.date();
        let midnight = |date: NaiveDate| date.and_time(chrono::NaiveTime::MIN);
        let (start, end) = match self {
            Every::Hours(hours) => {
                // In local time, so that six-hour intervals start at local midnight; the hour
                // repeated or skipped by daylight saving lengthens or shortens its interval.
                let hour = local.hour() / hours * hours;
                let start = midnight(date) + chrono::TimeDelta::hours(i64::from(hour));
                (start, start + chrono::TimeDelta::hours(i64::from(hours)))
            }
            Every::Day => (midnight(date), midnight(date + Days::new(1))),
            Every::Week => {
                let monday = date - Days::new(u64::from(date.weekday().num_days_from_monday()));
                (midnight(monday), midnight(monday + Days::new(7)))
            }
            Every::Month => {
                let first = date.with_day(1).expect("every month has a first day");
                (midnight(first), midnight(first + Months::new(1)))
            }
        };
        Range { start: from_local(start, timezone), end: from_local(end, timezone) }
    }

    /// The intervals that `range` is made of, in order.
    pub fn intervals_in(self, range: Range, timezone: Tz) -> impl Iterator<Item = Range> {
        let first = self.interval_of(range.start, timezone);
        let next = move |last: &Range| {
            let next = self.interval_of(last.end, timezone);
            (next.start == last.end).then_some(next)
        };
        std::iter::successors(Some(first), next).take_while(move |one| one.start < range.end)
    }

    /// `range` widened to whole intervals.
    pub fn align(self, range: Range, timezone: Tz) -> Range {
        let last = Instant(range.end.0 - 1);
        Range {
            start: self.interval_of(range.start, timezone).start,
            end: self.interval_of(last, timezone).end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Instant {
        Instant::parse(text, Tz::UTC).unwrap()
    }

    #[test]
    fn a_day_in_rome_has_23_24_or_25_hours() {
        let hours = |day: &str| {
            let rome = Tz::Europe__Rome;
            let range = Every::Day.interval_of(Instant::parse(day, rome).unwrap(), rome);
            (range.end.0 - range.start.0) / MICROS_PER_HOUR
        };
        assert_eq!((hours("2026-03-29"), hours("2026-10-25"), hours("2026-06-01")), (23, 25, 24));
    }

    #[test]
    fn a_time_in_the_spring_gap_is_the_first_instant_after_it() {
        let rome = Tz::Europe__Rome;
        assert_eq!(Instant::parse("2026-03-29T02:30", rome).unwrap(), utc("2026-03-29T01:00"));
    }

    #[test]
    fn intervals_before_1970_floor_downwards() {
        let range = Every::Day.interval_of(utc("1969-12-31T23:59:59.5"), Tz::UTC);
        assert_eq!(range.to_string(), "1969-12-31T00:00:00Z/1970-01-01T00:00:00Z");
    }

    #[test]
    fn ranges_merge_when_they_touch() {
        let r = |a: i64, b: i64| Range { start: Instant(a), end: Instant(b) };
        let set: RangeSet = [r(5, 9), r(1, 3), r(3, 4), r(8, 12)].into_iter().collect();
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [r(1, 4), r(5, 12)]);
    }

    #[test]
    fn touched_hours_keep_the_hole_that_a_hull_would_hide() {
        let mut touched = TouchedHours::default();
        for text in ["1970-01-01T00:10", "2026-01-01T10:05", "2026-01-01T11:59"] {
            touched.touch(utc(text).0);
        }
        let printed: Vec<String> = touched.ranges().iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "1970-01-01T00:00:00Z/1970-01-01T01:00:00Z",
                "2026-01-01T10:00:00Z/2026-01-01T12:00:00Z"
            ]
        );
    }
}
