//! What silver and gold must hold after a history, computed in plain Rust from its messages: a
//! second opinion that shares neither decoder nor SQL with the program. It decides nothing about
//! bronze beyond counting, and knows nothing of intervals: versions of a row share an event time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta};
use flowguard::demo::events::{Event, Topic};
use serde::Deserialize;

/// A table as text: decimals with all their digits, dates as `2026-01-05`, timestamps in RFC 3339
/// with microseconds and `Z`, null as the empty string. The rows are sorted as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub orders_raw: usize,
    pub clicks_raw: usize,
    pub dead_letters: usize,
    /// All of silver and gold.
    pub tables: Vec<Table>,
}

impl Expected {
    pub fn table(&self, name: &str) -> &Table {
        self.tables.iter().find(|table| table.name == name).expect("one of silver or gold")
    }
}

/// `events` in the order of production, from which offsets follow.
pub fn expected(events: &[Event]) -> Expected {
    let (mut orders, mut clicks, mut dead_letters) = (Vec::new(), Vec::new(), 0);
    let mut next_offsets = HashMap::<(Topic, i32), u64>::new();
    for event in events {
        let offset = next_offsets.entry((event.topic, event.partition)).or_default();
        let delivery = (event.timestamp_ms, event.partition, *offset);
        *offset += 1;
        match event.topic {
            Topic::Orders => match read_order(&event.payload) {
                Some(order) => orders.push((delivery, order)),
                None => dead_letters += 1,
            },
            Topic::Clicks => match read_click(&event.payload) {
                Some(click) => clicks.push((delivery, click)),
                None => dead_letters += 1,
            },
        }
    }
    let (orders_raw, clicks_raw) = (orders.len(), clicks.len());
    let orders = latest_orders(orders);
    let clicks = first_clicks(clicks);
    let tables = vec![
        orders_cleaned(&orders),
        clicks_cleaned(&clicks),
        user_sessions(&orders, &clicks),
        daily_metrics(&orders),
        food_item_performance(&orders),
        funnel_metrics(&clicks),
        user_cohorts(&orders),
    ];
    Expected { orders_raw, clicks_raw, dead_letters, tables }
}

#[derive(Deserialize)]
struct OrderMessage {
    order_id: String,
    user_id: String,
    session_id: Option<String>,
    item_id: Option<String>,
    item_name: Option<String>,
    category: Option<String>,
    price: Option<f64>,
    status: Option<String>,
    event_timestamp: String,
}

#[derive(Deserialize)]
struct ClickMessage {
    event_id: String,
    event_type: String,
    user_id: String,
    session_id: Option<String>,
    item_id: String,
    item_name: Option<String>,
    category: Option<String>,
    event_timestamp: String,
}

type At = DateTime<chrono::Utc>;
/// Timestamp, partition, offset.
type Delivery = (i64, i32, u64);

struct Order {
    message: OrderMessage,
    price_cents: i128,
    at: At,
}

struct Click {
    message: ClickMessage,
    at: At,
}

/// `None` for what belongs in the dead letters.
fn read_order(payload: &[u8]) -> Option<Order> {
    let message: OrderMessage = serde_json::from_slice(payload).ok()?;
    let at = DateTime::parse_from_rfc3339(&message.event_timestamp).ok()?.to_utc();
    // Whole cents survive the way through binary fractions at these magnitudes.
    let price_cents = (message.price.unwrap_or(0.0) * 100.0).round() as i128;
    Some(Order { message, price_cents, at })
}

fn read_click(payload: &[u8]) -> Option<Click> {
    let message: ClickMessage = serde_json::from_slice(payload).ok()?;
    let at = DateTime::parse_from_rfc3339(&message.event_timestamp).ok()?.to_utc();
    Some(Click { message, at })
}

fn latest_orders(deliveries: Vec<(Delivery, Order)>) -> Vec<Order> {
    let mut latest = HashMap::<String, (Delivery, Order)>::new();
    for (delivery, order) in deliveries {
        if order.price_cents <= 0 || order.message.item_id.is_none() {
            continue;
        }
        match latest.get(&order.message.order_id) {
            Some((known, _)) if *known > delivery => {}
            _ => _ = latest.insert(order.message.order_id.clone(), (delivery, order)),
        }
    }
    latest.into_values().map(|(_, order)| order).collect()
}

fn first_clicks(deliveries: Vec<(Delivery, Click)>) -> Vec<Click> {
    let mut first = HashMap::<String, (Delivery, Click)>::new();
    for (delivery, click) in deliveries {
        if !["impression", "click"].contains(&click.message.event_type.as_str()) {
            continue;
        }
        match first.get(&click.message.event_id) {
            Some((known, _)) if *known < delivery => {}
            _ => _ = first.insert(click.message.event_id.clone(), (delivery, click)),
        }
    }
    first.into_values().map(|(_, click)| click).collect()
}

fn orders_cleaned(orders: &[Order]) -> Table {
    let rows = orders.iter().map(|order| {
        let message = &order.message;
        vec![
            message.order_id.clone(),
            message.user_id.clone(),
            text(&message.session_id),
            text(&message.item_id),
            text(&message.item_name),
            text(&message.category),
            decimal(order.price_cents, 2),
            text(&message.status),
            timestamp(order.at),
            order.at.date_naive().to_string(),
        ]
    });
    table(
        "silver.orders_cleaned",
        &[
            "order_id",
            "user_id",
            "session_id",
            "item_id",
            "item_name",
            "category",
            "price",
            "status",
            "event_timestamp",
            "order_date",
        ],
        rows,
    )
}

fn clicks_cleaned(clicks: &[Click]) -> Table {
    let rows = clicks.iter().map(|click| {
        let message = &click.message;
        vec![
            message.event_id.clone(),
            message.event_type.clone(),
            message.user_id.clone(),
            text(&message.session_id),
            message.item_id.clone(),
            text(&message.item_name),
            text(&message.category),
            timestamp(click.at),
            click.at.date_naive().to_string(),
        ]
    });
    table(
        "silver.clicks_cleaned",
        &[
            "event_id",
            "event_type",
            "user_id",
            "session_id",
            "item_id",
            "item_name",
            "category",
            "event_timestamp",
            "event_date",
        ],
        rows,
    )
}

struct Session<'a> {
    user: &'a str,
    number: usize,
    start: At,
    end: At,
    impressions: usize,
    clicks: usize,
    orders: usize,
    gmv_cents: i128,
}

fn user_sessions(orders: &[Order], clicks: &[Click]) -> Table {
    let clicks = clicks
        .iter()
        .map(|click| (&*click.message.user_id, click.at, &*click.message.event_type, 0));
    let orders =
        orders.iter().map(|order| (&*order.message.user_id, order.at, "order", order.price_cents));
    let mut events: Vec<_> = clicks.chain(orders).collect();
    events.sort_unstable();
    let mut sessions: Vec<Session> = Vec::new();
    for (user, at, kind, cents) in events {
        let number = match sessions.last() {
            Some(last) if last.user == user && at - last.end <= GAP => last.number,
            Some(last) if last.user == user => last.number + 1,
            _ => 1,
        };
        if sessions.last().is_none_or(|last| (last.user, last.number) != (user, number)) {
            let (impressions, clicks, orders, gmv_cents) = (0, 0, 0, 0);
            let (start, end) = (at, at);
            let session =
                Session { user, number, start, end, impressions, clicks, orders, gmv_cents };
            sessions.push(session);
        }
        let session = sessions.last_mut().expect("one was pushed if there was none");
        session.end = at;
        session.gmv_cents += cents;
        match kind {
            "impression" => session.impressions += 1,
            "click" => session.clicks += 1,
            _ => session.orders += 1,
        }
    }
    let rows = sessions.iter().map(|session| {
        vec![
            session.user.to_owned(),
            session.number.to_string(),
            timestamp(session.start),
            timestamp(session.end),
            (session.impressions + session.clicks + session.orders).to_string(),
            session.impressions.to_string(),
            session.clicks.to_string(),
            session.orders.to_string(),
            decimal(session.gmv_cents, 2),
        ]
    });
    table(
        "silver.user_sessions",
        &[
            "user_id",
            "session_number",
            "session_start",
            "session_end",
            "events",
            "impressions",
            "clicks",
            "orders",
            "gmv",
        ],
        rows,
    )
}

const GAP: TimeDelta = TimeDelta::minutes(30);

fn daily_metrics(orders: &[Order]) -> Table {
    let mut days = BTreeMap::<NaiveDate, (i128, i128, BTreeSet<&str>)>::new();
    for order in orders {
        let (count, cents, users) = days.entry(order.at.date_naive()).or_default();
        *count += 1;
        *cents += order.price_cents;
        users.insert(&order.message.user_id);
    }
    let rows = days.iter().map(|(day, (count, cents, users))| {
        vec![
            day.to_string(),
            count.to_string(),
            decimal(*cents, 2),
            users.len().to_string(),
            decimal(half_up(*cents, *count), 2),
        ]
    });
    table(
        "gold.daily_metrics",
        &["order_date", "orders", "gmv", "unique_users", "avg_order_value"],
        rows,
    )
}

fn food_item_performance(orders: &[Order]) -> Table {
    let mut items = BTreeMap::<&Option<String>, (String, String, i128, i128)>::new();
    for order in orders {
        let message = &order.message;
        let (name, category, count, cents) = items.entry(&message.item_id).or_default();
        *name = text(&message.item_name).max(std::mem::take(name));
        *category = text(&message.category).max(std::mem::take(category));
        *count += 1;
        *cents += order.price_cents;
    }
    let rows = items.into_iter().map(|(item, (name, category, count, cents))| {
        let average = decimal(half_up(cents, count), 2);
        vec![text(item), name, category, count.to_string(), decimal(cents, 2), average]
    });
    table(
        "gold.food_item_performance",
        &["item_id", "item_name", "category", "total_orders", "revenue", "avg_price"],
        rows,
    )
}

fn funnel_metrics(clicks: &[Click]) -> Table {
    let mut items = BTreeMap::<&str, (String, i128, i128)>::new();
    for click in clicks {
        let message = &click.message;
        let (name, impressions, clicks) = items.entry(&message.item_id).or_default();
        *name = text(&message.item_name).max(std::mem::take(name));
        match message.event_type.as_str() {
            "impression" => *impressions += 1,
            _ => *clicks += 1,
        }
    }
    let rows = items.into_iter().map(|(item, (name, impressions, clicks))| {
        let ctr_percent = match impressions {
            0 => String::new(),
            _ => decimal(half_up(100 * 10_000 * clicks, impressions), 4),
        };
        vec![item.to_owned(), name, impressions.to_string(), clicks.to_string(), ctr_percent]
    });
    table(
        "gold.funnel_metrics",
        &["item_id", "item_name", "impressions", "clicks", "ctr_percent"],
        rows,
    )
}

fn user_cohorts(orders: &[Order]) -> Table {
    let mut weeks_of_users = BTreeMap::<&str, BTreeSet<NaiveDate>>::new();
    for order in orders {
        let date = order.at.date_naive();
        let monday = date - Days::new(u64::from(date.weekday().num_days_from_monday()));
        weeks_of_users.entry(&order.message.user_id).or_default().insert(monday);
    }
    let mut sizes = BTreeMap::<NaiveDate, i128>::new();
    let mut active = BTreeMap::<(NaiveDate, i64), i128>::new();
    for weeks in weeks_of_users.values() {
        let first = *weeks.first().expect("a user is here for an order");
        *sizes.entry(first).or_default() += 1;
        for week in weeks {
            *active.entry((first, (*week - first).num_weeks())).or_default() += 1;
        }
    }
    let rows = active.into_iter().map(|((first, number), users)| {
        let size = sizes[&first];
        vec![
            first.to_string(),
            number.to_string(),
            size.to_string(),
            users.to_string(),
            decimal(half_up(100 * 100 * users, size), 2),
        ]
    });
    table(
        "gold.user_cohorts",
        &["cohort_week", "week_number", "cohort_size", "active_users", "retention_percent"],
        rows,
    )
}

fn table(
    name: &'static str,
    columns: &'static [&'static str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Table {
    let mut rows: Vec<Vec<String>> = rows.collect();
    rows.sort_unstable();
    Table { name, columns, rows }
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn timestamp(at: At) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// `numerator / denominator` to the nearest whole, halves upwards; neither is negative.
fn half_up(numerator: i128, denominator: i128) -> i128 {
    (2 * numerator + denominator) / (2 * denominator)
}

/// `units` of 10^-scale, not negative.
fn decimal(units: i128, scale: u32) -> String {
    let one = 10_i128.pow(scale);
    format!("{}.{:0width$}", units / one, units % one, width = scale as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages in partition 0, in this order; times count in minutes from Monday 2026-01-05T10:00Z.
    #[derive(Default)]
    struct Tiny(Vec<Event>);

    impl Tiny {
        fn push(mut self, topic: Topic, minute: i64, payload: String) -> Self {
            let timestamp_ms = 1_767_607_200_000 + minute * 60_000;
            let (key, payload) = (String::new(), payload.into_bytes());
            self.0.push(Event { topic, partition: 0, key, payload, timestamp_ms });
            self
        }

        /// `what`: the order's id, user, item (JSON), price (JSON), status.
        fn order(self, minute: i64, event_time: &str, what: [&str; 5]) -> Self {
            let [id, user, item, price, status] = what;
            let payload = format!(
                r#"{{"order_id":"{id}","user_id":"{user}","item_id":{item},"item_name":"Name","price":{price},"status":"{status}","event_timestamp":"{event_time}"}}"#
            );
            self.push(Topic::Orders, minute, payload)
        }

        fn click(self, minute: i64, event_time: &str, id: &str, kind: &str, user: &str) -> Self {
            let payload = format!(
                r#"{{"event_id":"{id}","event_type":"{kind}","user_id":"{user}","item_id":"i1","item_name":"Name","event_timestamp":"{event_time}"}}"#
            );
            self.push(Topic::Clicks, minute, payload)
        }

        #[track_caller]
        fn check(&self, name: &str, rows: &[&str]) {
            let expected = expected(&self.0);
            let found: Vec<String> =
                expected.table(name).rows.iter().map(|row| row.join("|")).collect();
            assert_eq!(found, rows);
        }
    }

    const TEN: &str = "2026-01-05T10:00:00.000Z";

    #[test]
    fn of_an_order_the_latest_version_with_an_item_and_a_price_counts() {
        let history = Tiny::default()
            .order(0, TEN, ["o1", "u1", "\"i1\"", "12.50", "placed"])
            .order(1, TEN, ["o1", "u1", "\"i1\"", "12.50", "confirmed"])
            .order(2, TEN, ["o1", "u1", "null", "12.50", "delivered"])
            .order(3, TEN, ["o1", "u1", "\"i1\"", "0.00", "delivered"])
            .order(4, TEN, ["o2", "u1", "\"i1\"", "0", "placed"])
            // The same instant: the higher offset is the later one.
            .order(5, TEN, ["o3", "u1", "\"i1\"", "7.05", "placed"])
            .order(5, TEN, ["o3", "u1", "\"i1\"", "7.05", "cancelled"]);
        history.check(
            "silver.orders_cleaned",
            &[
                "o1|u1||i1|Name||12.50|confirmed|2026-01-05T10:00:00.000000Z|2026-01-05",
                "o3|u1||i1|Name||7.05|cancelled|2026-01-05T10:00:00.000000Z|2026-01-05",
            ],
        );
    }

    #[test]
    fn of_a_click_the_first_delivery_counts_and_other_types_do_not() {
        let history = Tiny::default()
            .click(0, TEN, "e1", "click", "u1")
            .click(1, TEN, "e1", "click", "u2")
            .click(1, TEN, "e2", "hover", "u1");
        history.check(
            "silver.clicks_cleaned",
            &["e1|click|u1||i1|Name||2026-01-05T10:00:00.000000Z|2026-01-05"],
        );
    }

    #[test]
    fn malformed_messages_are_counted_and_change_nothing() {
        let history = Tiny::default()
            .order(0, TEN, ["o1", "u1", "\"i1\"", "\"abc\"", "placed"])
            .order(0, "yesterday", ["o2", "u1", "\"i1\"", "1.00", "placed"])
            .push(Topic::Orders, 0, r#"{"user_id":"u1","price":1.00}"#.to_owned())
            .push(Topic::Orders, 0, r#"{"order_id":"o3","#.to_owned())
            .push(Topic::Clicks, 0, String::new())
            .click(0, TEN, "e1", "click", "u1");
        let expected = expected(&history.0);
        assert_eq!((expected.orders_raw, expected.clicks_raw, expected.dead_letters), (0, 1, 5));
        assert!(expected.table("silver.orders_cleaned").rows.is_empty());
    }

    #[test]
    fn a_session_ends_after_more_than_thirty_minutes() {
        let history = Tiny::default()
            .click(0, TEN, "e1", "impression", "u1")
            .click(0, TEN, "e2", "impression", "u2")
            .click(30, "2026-01-05T10:30:00.000Z", "e3", "click", "u1")
            .order(60, "2026-01-05T11:00:00.000Z", ["o1", "u1", "\"i1\"", "1.25", "placed"])
            .click(90, "2026-01-05T11:30:00.001Z", "e4", "impression", "u1");
        history.check(
            "silver.user_sessions",
            &[
                "u1|1|2026-01-05T10:00:00.000000Z|2026-01-05T11:00:00.000000Z|3|1|1|1|1.25",
                "u1|2|2026-01-05T11:30:00.001000Z|2026-01-05T11:30:00.001000Z|1|1|0|0|0.00",
                "u2|1|2026-01-05T10:00:00.000000Z|2026-01-05T10:00:00.000000Z|1|1|0|0|0.00",
            ],
        );
    }

    #[test]
    fn averages_round_halves_up() {
        let history = Tiny::default()
            .order(0, TEN, ["o1", "u1", "\"i1\"", "1.00", "placed"])
            .order(0, TEN, ["o2", "u2", "\"i1\"", "1.01", "placed"])
            .order(0, "2026-01-06T00:00:00.000Z", ["o3", "u1", "\"i2\"", "3.33", "placed"]);
        history
            .check("gold.daily_metrics", &["2026-01-05|2|2.01|2|1.01", "2026-01-06|1|3.33|1|3.33"]);
        history
            .check("gold.food_item_performance", &["i1|Name||2|2.01|1.01", "i2|Name||1|3.33|3.33"]);
    }

    #[test]
    fn the_click_through_rate_has_four_decimals_or_is_null() {
        let shown = (0..128).fold(Tiny::default(), |history, number| {
            history.click(0, TEN, &format!("e{number}"), "impression", "u1")
        });
        // 100/128 is 0.78125: a half in the fifth decimal.
        let clicked = shown.click(1, TEN, "c1", "click", "u1");
        clicked.check("gold.funnel_metrics", &["i1|Name|128|1|0.7813"]);
        let never_shown = Tiny::default().click(1, TEN, "c1", "click", "u1");
        never_shown.check("gold.funnel_metrics", &["i1|Name|0|1|"]);
    }

    #[test]
    fn cohorts_count_in_weeks_from_monday() {
        let sunday = "2026-01-11T23:59:59.999Z";
        let monday = "2026-01-12T00:00:00.000Z";
        let history = Tiny::default()
            .order(0, TEN, ["o1", "u1", "\"i1\"", "1.00", "placed"])
            .order(0, sunday, ["o2", "u2", "\"i1\"", "1.00", "placed"])
            .order(0, sunday, ["o3", "u3", "\"i1\"", "1.00", "placed"])
            .order(0, monday, ["o4", "u3", "\"i1\"", "1.00", "placed"])
            .order(0, monday, ["o5", "u4", "\"i1\"", "1.00", "placed"]);
        history.check(
            "gold.user_cohorts",
            &["2026-01-05|0|3|3|100.00", "2026-01-05|1|3|1|33.33", "2026-01-12|0|1|1|100.00"],
        );
    }
}
