//! Sessions: options that hold for every later call with the same cookie. Clients without cookies
//! have none, and get the server's defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono_tz::Tz;
use tonic::metadata::{MetadataMap, MetadataValue};
use uuid::Uuid;

use super::handles::{Handle, Purpose, Store, StoreLimits, Weight};
use super::messages::{OptionError, OptionErrorValue, OptionValue, SessionOption, SessionOptions};
use crate::access::{Access, Principal};
use crate::engine::CATALOG;
use crate::error::{Error, Result};
use crate::interval::{Instant, Range};
use crate::statements::Terms;
use crate::table::Layer;

/// The cookie's name, as the protocol suggests; clients that keep no cookies may send the value as
/// a header of the same name.
const COOKIE: &str = "arrow_flight_session_id";
/// Options that also come as headers. `timezone` before those that it reads.
const HEADERS: [&str; 2] = ["timezone", "schema"];
const LIFE_MICROS: i64 = 60 * 60 * 1_000_000;
/// However much it is used.
const AGE_MICROS_MAX: i64 = 7 * 24 * LIFE_MICROS;
const LIMITS: StoreLimits = StoreLimits {
    count_max: 4_096,
    count_per_user_max: 1_024,
    bytes_max: 4_096 * SESSION_BYTES,
    bytes_per_user_max: 1_024 * SESSION_BYTES,
    life_micros: LIFE_MICROS,
    age_micros_max: AGE_MICROS_MAX,
    gives_way_micros: i64::MAX,
};
const SESSION_BYTES: usize = 256;

/// Options of the sessions that are open, by the cookies of their clients.
pub struct Sessions {
    access: Access,
    store: Store<Options>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Options {
    layer: Option<Layer>,
    timezone: Option<Tz>,
    start: Option<Instant>,
    end: Option<Instant>,
    rows_max: Option<u64>,
    run_ms_max: Option<u64>,
}

/// What is to be said to the client about its cookie.
pub type SetCookie = MetadataValue<tonic::metadata::Ascii>;

impl Sessions {
    pub fn new(access: Access) -> Self {
        Self { access, store: Store::new(Purpose::Session, LIMITS) }
    }

    /// How statements of this call are read; fails if its session has ended.
    pub fn terms(&self, caller: &Principal, metadata: &MetadataMap, now: i64) -> Result<Terms> {
        match cookie_of(metadata) {
            Some(cookie) => {
                let id = self.id_of(caller, &cookie, now)?;
                let mut options = Options::of_headers(metadata)?;
                options.set_by(&self.store.get(id, &caller.user, now)?);
                options.terms()
            }
            None => Options::of_headers(metadata)?.terms(),
        }
    }

    /// Sets what can be set, in a new session if the call has none.
    pub fn set(
        &self,
        caller: &Principal,
        metadata: &MetadataMap,
        request: &SessionOptions,
        now: i64,
    ) -> Result<(BTreeMap<String, OptionError>, Option<SetCookie>)> {
        let known = cookie_of(metadata)
            .and_then(|cookie| self.id_of(caller, &cookie, now).ok())
            .filter(|id| self.store.get(*id, &caller.user, now).is_ok());
        let (id, cookie) = match known {
            Some(id) => (id, None),
            None => {
                let weight = Weight::of(SESSION_BYTES);
                let id = self.store.insert(&caller.user, Options::default(), weight, now)?;
                (id, Some(self.cookie(caller, id, now)?))
            }
        };
        let set = |options: &mut Options| options.set_all(&request.session_options);
        Ok((self.store.with(id, &caller.user, now, set)?, cookie))
    }

    /// The options that hold: the session's, or the defaults without one.
    pub fn get(
        &self,
        caller: &Principal,
        metadata: &MetadataMap,
        now: i64,
    ) -> Result<SessionOptions> {
        let options = match cookie_of(metadata) {
            Some(cookie) => {
                let id = self.id_of(caller, &cookie, now)?;
                self.store.get(id, &caller.user, now)?
            }
            None => Options::default(),
        };
        Ok(SessionOptions { session_options: options.all() })
    }

    /// Whether there was one or not; the cookie is to be forgotten.
    pub fn close(&self, caller: &Principal, metadata: &MetadataMap, now: i64) -> SetCookie {
        if let Some(cookie) = cookie_of(metadata)
            && let Ok(id) = self.id_of(caller, &cookie, now)
        {
            self.store.remove(id, &caller.user);
        }
        MetadataValue::from_static("arrow_flight_session_id=; Max-Age=0")
    }

    pub fn sweep(&self, now: i64) {
        self.store.sweep(now);
    }

    fn cookie(&self, caller: &Principal, id: Uuid, now: i64) -> Result<SetCookie> {
        let handle = Handle { id, part: 0, expires: now.saturating_add(AGE_MICROS_MAX) };
        let sealed = handle.seal(&self.access, Purpose::Session, &caller.user);
        MetadataValue::try_from(format!("{COOKIE}={}", BASE64_URL_SAFE_NO_PAD.encode(sealed)))
            .map_err(|_| Error::internal("a cookie is not a header"))
    }

    fn id_of(&self, caller: &Principal, cookie: &str, now: i64) -> Result<Uuid> {
        let sealed =
            BASE64_URL_SAFE_NO_PAD.decode(cookie).map_err(|_| Purpose::Session.unknown())?;
        // A server that was started anew knows as little of a session as one it ended.
        let user = &caller.user;
        Handle::unseal(&self.access, Purpose::Session, &sealed, user, now)
            .map(|handle| handle.id)
            .map_err(|_| Purpose::Session.unknown())
    }
}

fn cookie_of(metadata: &MetadataMap) -> Option<String> {
    let cookies = metadata.get_all("cookie").iter().filter_map(|header| header.to_str().ok());
    let value = cookies
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value.trim_matches('"'));
    let value = value.or_else(|| metadata.get(COOKIE)?.to_str().ok());
    value.filter(|value| !value.is_empty()).map(str::to_owned)
}

impl Options {
    /// What comes with every call: the JDBC driver sends the properties of its URL that it does not
    /// know as headers.
    fn of_headers(metadata: &MetadataMap) -> Result<Self> {
        let mut options = Self::default();
        for name in HEADERS {
            let Some(value) = metadata.get(name).and_then(|value| value.to_str().ok()) else {
                continue;
            };
            let text = OptionValue::String(value.to_owned());
            options.set(name, Some(&text)).map_err(|_| {
                Error::invalid(format!("the header `{name}` is `{value}`, which is none"))
                    .hint("schemas are bronze, silver and gold; time zones as in Europe/Rome")
            })?;
        }
        Ok(options)
    }

    /// What `others` set holds before what was set here.
    fn set_by(&mut self, others: &Self) {
        self.layer = others.layer.or(self.layer);
        self.timezone = others.timezone.or(self.timezone);
        self.start = others.start.or(self.start);
        self.end = others.end.or(self.end);
        self.rows_max = others.rows_max.or(self.rows_max);
        self.run_ms_max = others.run_ms_max.or(self.run_ms_max);
    }

    fn terms(&self) -> Result<Terms> {
        let range = match (self.start, self.end) {
            (Some(start), Some(end)) => Some(Range::new(start, end)?),
            (None, None) => None,
            _ => {
                return Err(Error::invalid("the session sets one of `start` and `end`")
                    .hint("set both, or neither for the last complete day"));
            }
        };
        let defaults = Terms::default();
        Ok(Terms {
            layer: self.layer,
            timezone: self.timezone.unwrap_or(defaults.timezone),
            range,
            rows_max: self.rows_max,
            run_max: self.run_ms_max.map(Duration::from_millis),
        })
    }

    /// Times are read in the time zone that comes with them.
    fn set_all(
        &mut self,
        options: &BTreeMap<String, SessionOption>,
    ) -> BTreeMap<String, OptionError> {
        let is_zone = |name: &&String| name.as_str() == "timezone";
        let (zones, others): (Vec<&String>, Vec<&String>) = options.keys().partition(is_zone);
        let mut errors = BTreeMap::new();
        for name in zones.into_iter().chain(others) {
            if let Err(error) = self.set(name, options[name].value.as_ref()) {
                errors.insert(name.clone(), OptionError { value: error as i32 });
            }
        }
        errors
    }

    fn set(&mut self, name: &str, value: Option<&OptionValue>) -> Result<(), OptionErrorValue> {
        let invalid = OptionErrorValue::InvalidValue;
        let text = match value {
            None => None,
            Some(OptionValue::String(text)) => Some(text.clone()),
            Some(OptionValue::Int64(number)) => Some(number.to_string()),
            Some(_) => return Err(invalid),
        };
        // ADBC cannot send nothing for a string.
        let text = text.filter(|text| !text.is_empty());
        let zone = self.timezone.unwrap_or(Tz::UTC);
        let instant = |text: String| Instant::parse(&text, zone).map_err(|_| invalid);
        let number =
            |text: String| text.parse::<u64>().ok().filter(|number| *number > 0).ok_or(invalid);
        match name.trim_start_matches('$') {
            "catalog" if text.as_deref().is_none_or(|text| text == CATALOG) => {}
            "catalog" => return Err(invalid),
            "schema" => {
                self.layer = text.map(|text| text.parse().map_err(|_| invalid)).transpose()?;
            }
            "timezone" => {
                self.timezone = text.map(|text| text.parse().map_err(|_| invalid)).transpose()?;
            }
            "start" => self.start = text.map(instant).transpose()?,
            "end" => self.end = text.map(instant).transpose()?,
            "rows_max" => self.rows_max = text.map(number).transpose()?,
            "run_ms_max" => self.run_ms_max = text.map(number).transpose()?,
            _ => return Err(OptionErrorValue::InvalidName),
        }
        Ok(())
    }

    fn all(&self) -> BTreeMap<String, SessionOption> {
        let text = |text: String| OptionValue::String(text);
        let number = |number: u64| OptionValue::Int64(i64::try_from(number).unwrap_or(i64::MAX));
        let options = [
            ("catalog", Some(text(CATALOG.to_owned()))),
            ("schema", self.layer.map(|layer| text(layer.to_string()))),
            ("timezone", Some(text(self.timezone.unwrap_or(Tz::UTC).name().to_owned()))),
            ("start", self.start.map(|start| text(start.to_string()))),
            ("end", self.end.map(|end| text(end.to_string()))),
            ("rows_max", self.rows_max.map(number)),
            ("run_ms_max", self.run_ms_max.map(number)),
        ];
        options
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, value)| (name.to_owned(), SessionOption { value }))
            .collect()
    }
}
