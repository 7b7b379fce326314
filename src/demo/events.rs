//! A made-up food-ordering history: users browse, click and order, and the messages arrive the way
//! messages do, some twice, some late, some broken. The same options give the same bytes on every
//! machine and day: all randomness comes from a seeded ChaCha8 and integer arithmetic. No clock is
//! read and nothing is sent from here.

use std::collections::BTreeMap;
use std::io::Write;

use chrono::{DateTime, Datelike, Timelike};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use xxhash_rust::xxh3::xxh3_64;

use super::menu::{ITEMS, Item};
use crate::interval::Instant;

/// What to make up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Length of the history; event times lie in `[start, start + days)`.
    pub days: u32,
    /// Distinct well-formed orders.
    pub orders: u64,
    /// Distinct impressions and clicks together.
    pub clicks: u64,
    pub seed: u64,
    pub start: Instant,
}

impl Default for Options {
    fn default() -> Self {
        // Monday 2026-01-05T00:00:00Z: fixed, so that the numbers are the same on any day.
        let start = Instant(1_767_571_200_000_000);
        Self { days: 7, orders: 20_000, clicks: 200_000, seed: 42, start }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    Orders,
    Clicks,
}

impl Topic {
    pub const ALL: [Topic; 2] = [Topic::Orders, Topic::Clicks];

    pub fn name(self) -> &'static str {
        match self {
            Topic::Orders => "raw.orders.v1",
            Topic::Clicks => "raw.clicks.v1",
        }
    }

    pub fn partitions(self) -> i32 {
        match self {
            Topic::Orders => 3,
            Topic::Clicks => 6,
        }
    }

    /// The same partition for the same key, for ever.
    fn partition_of(self, key: &str) -> i32 {
        (xxh3_64(key.as_bytes()) % u64::from(self.partitions().unsigned_abs())) as i32
    }
}

/// One message, as it is produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub topic: Topic,
    pub partition: i32,
    /// The order id for orders, so that the versions of an order stay in sequence; the user id for
    /// clicks.
    pub key: String,
    /// A JSON object, or something malformed.
    pub payload: Vec<u8>,
    /// When it is produced: at its event time, or later.
    pub timestamp_ms: i64,
}

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Nothing arrives later than this after its event time.
pub const LATE_MS_MAX: i64 = 72 * HOUR_MS;
const REDELIVERY_MS_MAX: i64 = 2 * HOUR_MS;
/// From the end of a user's session to the start of the next, at least.
const SESSION_PAUSE_MS: i64 = 2 * HOUR_MS;

const REDELIVERED_PER_MILLE: u64 = 10;
const LATE_PER_MILLE: u64 = 5;
const DROPPED_PER_MILLE: u64 = 2;
const MALFORMED_PER_MILLE: u64 = 1;

/// How busy the hours of a day (UTC) are: lunch and dinner.
const HOUR_WEIGHTS: [u64; 24] =
    [2, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 10, 14, 12, 7, 5, 5, 7, 12, 16, 14, 9, 6, 4];

/// All messages in the order of `timestamp_ms`. Holds about the messages of the busiest hour and
/// those still on their way late; makes nothing when `days` is 0.
pub fn history(options: &Options) -> impl Iterator<Item = Event> + Send + use<> {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&options.seed.to_le_bytes());
    let hours = i64::from(options.days) * 24;
    let start_ms = options.start.0.div_euclid(1_000);
    // About one session per user and day.
    let users = (options.clicks / 10 + options.orders / 3) / u64::from(options.days.max(1));
    History {
        rng: Rng(ChaCha8Rng::from_seed(seed)),
        start_ms,
        end_ms: start_ms + hours * HOUR_MS,
        hours,
        hour: 0,
        weight_done: 0,
        clicks: Quota { total: options.clicks, done: 0 },
        orders: Quota { total: options.orders, done: 0 },
        users_known: users.clamp(50, 1_000_000),
        users_free_at_ms: vec![i64::MIN; users.clamp(50, 1_000_000) as usize],
        pending: BTreeMap::new(),
        sequence: 0,
    }
}

struct History {
    rng: Rng,
    start_ms: i64,
    end_ms: i64,
    /// The history is made up hour by hour; hours before this one are.
    hour: i64,
    hours: i64,
    weight_done: u64,
    clicks: Quota,
    orders: Quota,
    users_known: u64,
    /// Per user, the earliest start of the next session.
    users_free_at_ms: Vec<i64>,
    /// Messages made up but not yet due, by time and order of making.
    pending: BTreeMap<(i64, u64), Event>,
    sequence: u64,
}

/// How many of a kind there are to be in the whole history, and how many there are.
struct Quota {
    total: u64,
    done: u64,
}

impl Quota {
    fn left_until(&self, part: u64, whole: u64) -> u64 {
        let due = u128::from(self.total) * u128::from(part) / u128::from(whole);
        u64::try_from(due).expect("a part is not more than the whole") - self.done
    }
}

/// One user's stay.
struct Session {
    id: String,
    user: usize,
    user_id: String,
}

impl Iterator for History {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            // Whatever is still to be made up is produced at or after this.
            let horizon_ms = match self.hour == self.hours {
                true => i64::MAX,
                false => self.start_ms + self.hour * HOUR_MS,
            };
            match self.pending.first_entry() {
                Some(entry) if entry.key().0 < horizon_ms => return Some(entry.remove()),
                _ if self.hour == self.hours => return None,
                _ => self.make_hour(),
            }
        }
    }
}

impl History {
    /// The sessions that start in the next hour.
    fn make_hour(&mut self) {
        let hour_start_ms = self.start_ms + self.hour * HOUR_MS;
        let hour_of_day = hour_start_ms.div_euclid(HOUR_MS).rem_euclid(24) as usize;
        self.hour += 1;
        self.weight_done += HOUR_WEIGHTS[hour_of_day];
        // Any 24 hours in a row have all the weights, so this holds for any start.
        let weight_total = HOUR_WEIGHTS.iter().sum::<u64>() * (self.hours as u64 / 24);
        let clicks_until =
            self.clicks.done + self.clicks.left_until(self.weight_done, weight_total);
        let orders_until =
            self.orders.done + self.orders.left_until(self.weight_done, weight_total);
        while self.clicks.done < clicks_until {
            self.browse(hour_start_ms, clicks_until, orders_until);
        }
        // A few order what they always order without looking around.
        while self.orders.done < orders_until {
            let at_ms = hour_start_ms + self.rng.between(0, HOUR_MS);
            let session = self.open_session(at_ms);
            let item = self.pick_item();
            self.order(item, &session, at_ms);
            self.users_free_at_ms[session.user] = at_ms + SESSION_PAUSE_MS;
        }
    }

    /// One session of impressions, clicks on what was shown last, and orders of what was clicked.
    fn browse(&mut self, hour_start_ms: i64, clicks_until: u64, orders_until: u64) {
        let mut at_ms = hour_start_ms + self.rng.between(0, HOUR_MS);
        let session = self.open_session(at_ms);
        let mut shown: Option<&'static Item> = None;
        for _ in 0..3 + self.rng.below(8) + self.rng.below(8) {
            // The history ends in the middle of sessions.
            if self.clicks.done == clicks_until || at_ms >= self.end_ms {
                break;
            }
            self.clicks.done += 1;
            match shown.take() {
                // One click after every fourth impression makes a fifth of all events clicks.
                Some(item) if self.rng.below(1_000) < 265 => {
                    self.click("click", item, &session, at_ms);
                    let ordered_at_ms = at_ms + self.rng.between(10 * SECOND_MS, 4 * MINUTE_MS);
                    // Spreads what is left of the hour's orders over what is left of its clicks.
                    let clicks_left = (clicks_until - self.clicks.done) / 5 + 1;
                    let orders_left = orders_until - self.orders.done;
                    if self.rng.below(clicks_left) < orders_left && ordered_at_ms < self.end_ms {
                        self.order(item, &session, ordered_at_ms);
                        at_ms = ordered_at_ms;
                    }
                }
                _ => {
                    let item = self.pick_item();
                    self.click("impression", item, &session, at_ms);
                    shown = Some(item);
                }
            }
            at_ms += match self.rng.below(20) {
                0 => self.rng.between(MINUTE_MS, 15 * MINUTE_MS),
                _ => self.rng.between(SECOND_MS, 45 * SECOND_MS),
            };
        }
        self.users_free_at_ms[session.user] = at_ms + SESSION_PAUSE_MS;
    }

    /// A session of somebody who has been away for a while: mostly of the regulars, and of ever
    /// more newcomers as time goes by.
    fn open_session(&mut self, at_ms: i64) -> Session {
        const PROBES_MAX: u64 = 64;
        let pool = self.users_known * (40 + 60 * self.hour as u64 / self.hours as u64) / 100;
        let first = self.rng.skewed(pool);
        let user = (first..first + PROBES_MAX)
            .map(|user| (user % pool) as usize)
            .find(|user| self.users_free_at_ms[*user] <= at_ms)
            .unwrap_or_else(|| {
                self.users_free_at_ms.push(i64::MIN);
                self.users_free_at_ms.len() - 1
            });
        Session { id: self.rng.uuid(), user, user_id: format!("user_{:06}", user + 1) }
    }

    fn pick_item(&mut self) -> &'static Item {
        &ITEMS[self.rng.skewed(ITEMS.len() as u64) as usize]
    }

    fn click(&mut self, event_type: &str, item: &Item, session: &Session, at_ms: i64) {
        let id = self.rng.uuid();
        let payload = click_payload(&id, event_type, item, session, at_ms);
        let produced_ms = self.produced_ms(at_ms);
        if self.rng.per_mille(REDELIVERED_PER_MILLE) {
            let again_ms = self.redelivered_ms(produced_ms);
            self.push(Topic::Clicks, &session.user_id, payload.clone(), again_ms);
        }
        if self.rng.per_mille(MALFORMED_PER_MILLE) {
            let broken = self.broken(&payload, "event_timestamp", "\"yesterday\"");
            self.push(Topic::Clicks, &session.user_id, broken, produced_ms);
        }
        self.push(Topic::Clicks, &session.user_id, payload, produced_ms);
    }

    fn order(&mut self, item: &Item, session: &Session, at_ms: i64) {
        self.orders.done += 1;
        let id = self.rng.uuid();
        let price_cents = match self.rng.below(7) {
            0 => item.price_cents * 9 / 10,
            _ => item.price_cents,
        };
        let status = match self.rng.below(20) {
            0 => "cancelled",
            1..3 => "delivered",
            3..7 => "confirmed",
            _ => "placed",
        };
        let mut order = Order { id: &id, item, session, price_cents, status, at_ms };
        let payload = self.order_delivery(&order);
        let produced_ms = self.produced_ms(at_ms);
        if self.rng.per_mille(MALFORMED_PER_MILLE) {
            let broken = self.broken(&payload, "price", "\"abc\"");
            self.push(Topic::Orders, &id, broken, produced_ms);
        }
        self.push(Topic::Orders, &id, payload, produced_ms);
        if self.rng.per_mille(REDELIVERED_PER_MILLE) {
            order.status = match (status, self.rng.below(4)) {
                ("placed", 0) => "cancelled",
                ("placed", 1) => "confirmed",
                ("confirmed", 0 | 1) => "delivered",
                _ => status,
            };
            let payload = self.order_delivery(&order);
            let again_ms = self.redelivered_ms(produced_ms);
            self.push(Topic::Orders, &id, payload, again_ms);
        }
    }

    /// Well-formed, but now and then of the kind that makes no sense: free of charge, or nothing.
    fn order_delivery(&mut self, order: &Order) -> Vec<u8> {
        if !self.rng.per_mille(DROPPED_PER_MILLE) {
            return order.payload();
        }
        match self.rng.below(2) {
            0 => replaced(&order.payload(), "price", "0.00"),
            _ => replaced(&order.payload(), "item_id", "null"),
        }
    }

    fn broken(&mut self, payload: &[u8], field: &str, wrong_value: &str) -> Vec<u8> {
        match self.rng.below(6) {
            0 => payload[..1 + self.rng.below(payload.len() as u64 - 1) as usize].to_vec(),
            1 => replaced(payload, field, wrong_value),
            2 => [b"{", &payload[ID_FIELD_BYTES..]].concat(),
            3 => Vec::new(),
            4 => b"<html><body>502 Bad Gateway</body></html>".to_vec(),
            _ => vec![0x00, 0xff, 0xfe, 0x00, 0x12],
        }
    }

    fn produced_ms(&mut self, at_ms: i64) -> i64 {
        match self.rng.per_mille(LATE_PER_MILLE) {
            true => at_ms + self.rng.between(10 * MINUTE_MS, LATE_MS_MAX - REDELIVERY_MS_MAX),
            false => at_ms,
        }
    }

    fn redelivered_ms(&mut self, produced_ms: i64) -> i64 {
        produced_ms + self.rng.between(SECOND_MS, REDELIVERY_MS_MAX)
    }

    fn push(&mut self, topic: Topic, key: &str, payload: Vec<u8>, timestamp_ms: i64) {
        let partition = topic.partition_of(key);
        let event = Event { topic, partition, key: key.to_owned(), payload, timestamp_ms };
        self.pending.insert((timestamp_ms, self.sequence), event);
        self.sequence += 1;
    }
}

/// Draws by integer arithmetic alone: floating-point functions differ between machines.
struct Rng(ChaCha8Rng);

impl Rng {
    /// Uniform in `0..limit`.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// Uniform in `from..to`.
    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from) as u64) as i64
    }

    /// In `0..limit`, the first far more often than the last: the product of two uniform draws.
    fn skewed(&mut self, limit: u64) -> u64 {
        let below_limit = self.below(limit << 16);
        ((u128::from(self.0.next_u64()) * u128::from(below_limit)) >> 80) as u64
    }

    fn per_mille(&mut self, share: u64) -> bool {
        self.below(1_000) < share
    }

    /// In version 4 form.
    fn uuid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

struct Order<'a> {
    id: &'a str,
    item: &'a Item,
    session: &'a Session,
    price_cents: u64,
    status: &'a str,
    at_ms: i64,
}

const PAYLOAD_BYTES: usize = 360;
/// The length of `{"order_id":"…",` and of `{"event_id":"…",`.
const ID_FIELD_BYTES: usize = 51;

impl Order<'_> {
    fn payload(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(PAYLOAD_BYTES);
        text_field(&mut json, b"{\"order_id\":\"", self.id);
        what_and_who(&mut json, self.session, self.item);
        write!(json, ",\"price\":{}.{:02}", self.price_cents / 100, self.price_cents % 100)
            .expect("memory takes every write");
        text_field(&mut json, b",\"status\":\"", self.status);
        time_field(&mut json, self.at_ms);
        json
    }
}

fn click_payload(
    id: &str,
    event_type: &str,
    item: &Item,
    session: &Session,
    at_ms: i64,
) -> Vec<u8> {
    let mut json = Vec::with_capacity(PAYLOAD_BYTES);
    text_field(&mut json, b"{\"event_id\":\"", id);
    text_field(&mut json, b",\"event_type\":\"", event_type);
    what_and_who(&mut json, session, item);
    time_field(&mut json, at_ms);
    json
}

fn what_and_who(json: &mut Vec<u8>, session: &Session, item: &Item) {
    text_field(json, b",\"user_id\":\"", &session.user_id);
    text_field(json, b",\"session_id\":\"", &session.id);
    text_field(json, b",\"item_id\":\"", item.id);
    text_field(json, b",\"item_name\":\"", item.name);
    text_field(json, b",\"category\":\"", item.category);
}

/// Nothing here needs escaping: no name has a quote or a backslash in it.
fn text_field(json: &mut Vec<u8>, opening: &[u8], value: &str) {
    json.extend_from_slice(opening);
    json.extend_from_slice(value.as_bytes());
    json.push(b'"');
}

/// The last field, as RFC 3339 with milliseconds. By hand, because formatting through chrono would
/// take as long as all the rest.
fn time_field(json: &mut Vec<u8>, at_ms: i64) {
    let at = DateTime::from_timestamp_millis(at_ms).expect("a history is within chrono's range");
    json.extend_from_slice(b",\"event_timestamp\":\"0000-00-00T00:00:00.000Z\"}");
    let start = json.len() - 26;
    let text = &mut json[start..];
    let mut digits = |last: usize, count: usize, mut value: u32| {
        for digit in text[last + 1 - count..=last].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(3, 4, at.year().unsigned_abs());
    digits(6, 2, at.month());
    digits(9, 2, at.day());
    digits(12, 2, at.hour());
    digits(15, 2, at.minute());
    digits(18, 2, at.second());
    digits(22, 3, at.timestamp_subsec_millis());
}

/// `payload` with another value in `field`, which must be there and not hold a comma.
fn replaced(payload: &[u8], field: &str, value: &str) -> Vec<u8> {
    let payload = str::from_utf8(payload).expect("payloads are text until they are broken");
    let name = format!("\"{field}\":");
    let start = payload.find(&name).expect("the field is there") + name.len();
    let length = payload[start..].find([',', '}']).expect("a field ends");
    [&payload[..start], value, &payload[start + length..]].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap, HashSet};

    use serde_json::Value;
    use xxhash_rust::xxh3::Xxh3;

    use super::*;

    fn hash(options: &Options) -> String {
        let mut hasher = Xxh3::new();
        for event in history(options) {
            hasher.update(event.topic.name().as_bytes());
            hasher.update(&event.partition.to_le_bytes());
            hasher.update(event.key.as_bytes());
            hasher.update(&event.payload);
            hasher.update(&event.timestamp_ms.to_le_bytes());
        }
        format!("{:016x}", hasher.digest())
    }

    fn small(seed: u64) -> Options {
        Options { days: 2, orders: 300, clicks: 3_000, seed, ..Options::default() }
    }

    /// The object of a well-formed message; the schema's required fields and types decide.
    fn well_formed(event: &Event) -> Option<Value> {
        let value: Value = serde_json::from_slice(&event.payload).ok()?;
        let id = if event.topic == Topic::Orders { "order_id" } else { "event_id" };
        let timed = DateTime::parse_from_rfc3339(value["event_timestamp"].as_str()?).is_ok();
        let priced = event.topic == Topic::Clicks || value["price"].is_number();
        (value[id].is_string() && timed && priced).then_some(value)
    }

    fn event_ms(value: &Value) -> i64 {
        let text = value["event_timestamp"].as_str().unwrap();
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_for_ever() {
        assert_eq!(hash(&small(42)), "fb07fb1784aca075");
    }

    #[test]
    fn another_seed_gives_another_history() {
        assert_ne!(hash(&small(42)), hash(&small(43)));
    }

    #[test]
    fn messages_come_in_the_order_of_their_time_and_keys_keep_their_partition() {
        let events: Vec<Event> = history(&small(1)).collect();
        assert!(events.is_sorted_by_key(|event| event.timestamp_ms));
        let mut partitions = HashMap::new();
        for event in &events {
            let known = partitions.entry((event.topic, &event.key)).or_insert(event.partition);
            assert_eq!(*known, event.partition);
        }
        for topic in Topic::ALL {
            let used: BTreeSet<i32> =
                events.iter().filter(|e| e.topic == topic).map(|e| e.partition).collect();
            assert_eq!(used, (0..topic.partitions()).collect());
        }
    }

    #[test]
    fn a_message_reads_as_documented() {
        let events: Vec<Event> = history(&small(42)).collect();
        let first = |topic| {
            let event = events.iter().find(|e| e.topic == topic).unwrap();
            String::from_utf8(event.payload.clone()).unwrap()
        };
        assert_eq!(
            first(Topic::Orders),
            r#"{"order_id":"ccaa4218-e9eb-47ea-8771-a50fe36d7e51","user_id":"user_000012","session_id":"e2f6ce96-6a30-4e5e-a20b-879609a55fd3","item_id":"food_002","item_name":"Classic Cheeseburger","category":"burger","price":11.90,"status":"placed","event_timestamp":"2026-01-05T00:22:35.163Z"}"#
        );
        assert_eq!(
            first(Topic::Clicks),
            r#"{"event_id":"52ca9140-11bc-42cc-9a57-8c0aab8c3e98","event_type":"impression","user_id":"user_000012","session_id":"e2f6ce96-6a30-4e5e-a20b-879609a55fd3","item_id":"food_004","item_name":"Pad Thai","category":"thai","event_timestamp":"2026-01-05T00:20:53.716Z"}"#
        );
    }

    #[test]
    fn counts_are_exact_and_faults_are_as_frequent_as_promised() {
        let options = Options::default();
        let end_ms = options.start.0 / 1_000 + 7 * 24 * HOUR_MS;
        let (mut ids, mut versions) = (HashMap::new(), HashSet::new());
        let mut of = HashMap::<&str, u64>::new();
        let mut count = |what: &'static str| *of.entry(what).or_default() += 1;
        for event in history(&options) {
            let Some(value) = well_formed(&event) else {
                count("malformed");
                continue;
            };
            let id = value.get("order_id").or(value.get("event_id")).unwrap().to_string();
            let late_ms = event.timestamp_ms - event_ms(&value);
            assert!((0..=LATE_MS_MAX).contains(&late_ms), "late by {late_ms} ms");
            assert!((options.start.0 / 1_000..end_ms).contains(&event_ms(&value)));
            versions.insert((id.clone(), value["status"].to_string()));
            if value["price"] == 0.0 || value["item_id"].is_null() {
                count("dropped");
            }
            if let Some(event_ms_before) = ids.insert(id, event_ms(&value)) {
                assert_eq!(event_ms_before, event_ms(&value));
                count(if event.topic == Topic::Orders { "orders again" } else { "clicks again" });
                continue;
            }
            count(event.topic.name());
            count(value["event_type"].as_str().map_or("order", |kind| match kind {
                "click" => "click",
                _ => "impression",
            }));
            if late_ms > 0 {
                count("late");
            }
        }
        let newer = (versions.len() - ids.len()) as u64;
        assert_eq!((of["raw.orders.v1"], of["raw.clicks.v1"]), (20_000, 200_000));
        for (what, number, bounds) in [
            ("malformed", of["malformed"], 160..280),
            ("orders again", of["orders again"], 150..250),
            ("clicks again", of["clicks again"], 1_800..2_200),
            ("newer status", newer, 50..150),
            ("dropped", of["dropped"], 20..65),
            ("late", of["late"], 1_000..1_200),
            ("click", of["click"], 38_000..42_000),
        ] {
            assert!(bounds.contains(&number), "{what}: {number} is not in {bounds:?}");
        }
    }

    #[test]
    fn a_gap_of_thirty_minutes_finds_the_sessions() {
        let mut sessions = HashSet::new();
        let mut by_user = HashMap::<String, BTreeSet<(i64, String)>>::new();
        for value in history(&small(7)).filter_map(|event| well_formed(&event)) {
            let session = value["session_id"].as_str().unwrap().to_owned();
            sessions.insert(session.clone());
            let user = value["user_id"].as_str().unwrap().to_owned();
            by_user.entry(user).or_default().insert((event_ms(&value), session));
        }
        let mut found = 0;
        for events in by_user.values() {
            let events: Vec<_> = events.iter().collect();
            for pair in events.windows(2) {
                let gap = pair[1].0 - pair[0].0 > 30 * MINUTE_MS;
                assert_eq!(gap, pair[0].1 != pair[1].1, "{pair:?}");
                found += usize::from(gap);
            }
            found += 1;
        }
        assert_eq!(found, sessions.len());
        assert!(by_user.len() < sessions.len(), "some come back");
    }

    #[test]
    fn odd_options_still_give_exact_counts() {
        for (days, orders, clicks) in
            [(1, 0, 500), (1, 500, 0), (3, 900, 100), (0, 5, 5), (2, 1, 1)]
        {
            let options = Options { days, orders, clicks, ..Options::default() };
            let mut ids = HashMap::<Topic, HashSet<String>>::new();
            for event in history(&options) {
                if let Some(value) = well_formed(&event) {
                    let id = value.get("order_id").or(value.get("event_id")).unwrap().to_string();
                    ids.entry(event.topic).or_default().insert(id);
                }
            }
            let made = Topic::ALL.map(|topic| ids.get(&topic).map_or(0, HashSet::len) as u64);
            let wanted = if days == 0 { [0, 0] } else { [orders, clicks] };
            assert_eq!(made, wanted, "{options:?}");
        }
    }
}
