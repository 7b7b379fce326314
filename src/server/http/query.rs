//! `/api/v1/query`: one statement in, its rows out as they are made. A failure before the first rows
//! is an answer with its status; one after them cuts the connection off, so that no client can take
//! a part for the whole.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use chrono_tz::Tz;
use futures::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::form::{Encoder, Form};
use super::site::Site;
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::interval::{Instant, Range};
use crate::server::strangers::Peer;
use crate::statements::{SQL_BYTES_MAX, Terms};

use arrow::array::RecordBatch;

/// The longest statement may need every byte escaped.
const BODY_BYTES_MAX: usize = 2 * SQL_BYTES_MAX;
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// What a request says.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
    /// The layer in which names without one are looked for.
    schema: Option<String>,
    /// Bound to `$start` and `$end`.
    start: Option<String>,
    end: Option<String>,
    timezone: Option<String>,
}

/// `?sql=…` in the address.
pub async fn by_address(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> std::result::Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let principal = site.principal(&peer, &parts).await?;
    let form = Form::accepted(&parts.headers)?;
    let asked = Asked::in_pairs(parts.uri.query().unwrap_or_default().as_bytes())?;
    let statement = site.statements.plan(&principal, &asked.sql, &asked.terms()?).await?;
    Ok(answer(&statement, form).await?)
}

/// JSON, a form, or the statement itself in the body.
pub async fn by_body(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> std::result::Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let principal = site.principal(&peer, &parts).await?;
    let form = Form::accepted(&parts.headers)?;
    let asked = Asked::in_body(&parts.headers, &read(body).await?)?;
    let statement = site.statements.plan(&principal, &asked.sql, &asked.terms()?).await?;
    Ok(answer(&statement, form).await?)
}

async fn read(body: Body) -> Result<Bytes> {
    let read = tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX));
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(source)) => Err(Error::new(
            ErrorKind::Exhausted,
            format!("the request's body is longer than {BODY_BYTES_MAX} bytes, or broke off"),
        )
        .source(source)),
        Err(_) => Err(Error::new(
            ErrorKind::Exhausted,
            format!("the request's body took longer than {} s", BODY_TIME_MAX.as_secs()),
        )),
    }
}

impl Asked {
    fn in_body(headers: &HeaderMap, body: &[u8]) -> Result<Self> {
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
        let content_type = String::from_utf8_lossy(content_type.unwrap_or(b"text/plain"));
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/json" => serde_json::from_slice(body).map_err(|error| {
                Error::invalid(format!("the request's JSON is not understood: {error}"))
                    .hint("write {\"sql\": \"SELECT 1\"}")
            }),
            "text/plain" | "application/sql" => {
                let sql = std::str::from_utf8(body).map_err(|source| {
                    Error::invalid("the statement is not in UTF-8").source(source)
                })?;
                let sql = sql.to_owned();
                Ok(Self { sql, schema: None, start: None, end: None, timezone: None })
            }
            "application/x-www-form-urlencoded" => Self::in_pairs(body),
            other => Err(Error::invalid(format!("the request's body is of type `{other}`"))
                .hint("send application/json, text/plain or application/x-www-form-urlencoded")),
        }
    }

    fn in_pairs(text: &[u8]) -> Result<Self> {
        let mut values = Map::new();
        for (key, value) in url::form_urlencoded::parse(text) {
            if values.insert(key.to_string(), Value::String(value.into_owned())).is_some() {
                return Err(Error::invalid(format!("the request says `{key}` twice")));
            }
        }
        serde_json::from_value(Value::Object(values)).map_err(|error| {
            Error::invalid(format!("the request is not understood: {error}"))
                .hint("curl -G URL --data-urlencode \"sql=SELECT 1\"")
        })
    }

    fn terms(&self) -> Result<Terms> {
        let timezone = match &self.timezone {
            Some(name) => name.parse().map_err(|_| unknown_timezone(name))?,
            None => Tz::UTC,
        };
        let range = match (&self.start, &self.end) {
            (Some(start), Some(end)) => {
                Some(Range::new(Instant::parse(start, timezone)?, Instant::parse(end, timezone)?)?)
            }
            (None, None) => None,
            _ => return Err(Error::invalid("`start` and `end` belong together")),
        };
        let layer = self.schema.as_deref().map(str::parse).transpose()?;
        Ok(Terms { layer, timezone, range, ..Terms::default() })
    }
}

fn unknown_timezone(name: &str) -> Error {
    let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    let hint = match did_you_mean(name, names) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "use a name of the IANA database, such as Europe/Rome or UTC".into(),
    };
    Error::invalid(format!("unknown time zone `{name}`")).hint(hint)
}

/// Runs the statement, and answers once it has made something.
async fn answer(statement: &crate::statements::Statement, form: Form) -> Result<Response> {
    // All parts run from here on, each a few batches ahead of its turn.
    let mut parts = Vec::new();
    for part in 0..statement.parts().await? {
        parts.push(statement.stream(part).await?);
    }
    let mut encoding = Encoding {
        form,
        encoder: Encoder::new(form, statement.schema())?,
        batches: stream::iter(parts).flatten().boxed(),
        rest: None,
        is_done: false,
    };
    let first = encoding.next().await?;
    let rest = stream::try_unfold(encoding, |mut encoding| async move {
        Ok::<_, Error>(encoding.next().await?.map(|bytes| (bytes, encoding)))
    });
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(rest));
    let headers = [
        (CONTENT_TYPE, form.content_type()),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, body).into_response())
}

/// A result on its way into bytes.
struct Encoding {
    form: Form,
    encoder: Encoder,
    batches: BoxStream<'static, Result<RecordBatch>>,
    /// Rows of the last batch that are not encoded yet.
    rest: Option<RecordBatch>,
    is_done: bool,
}

impl Encoding {
    /// The next bytes; never none of them, which some would take for the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.is_done {
            let batch = match self.rest.take() {
                Some(batch) => Some(batch),
                None => self.batches.next().await.transpose()?,
            };
            match batch {
                Some(batch) => {
                    let rows = batch.num_rows().min(self.form.rows_max());
                    let left = batch.num_rows() - rows;
                    self.rest = (left > 0).then(|| batch.slice(rows, left));
                    self.encoder.write(&batch.slice(0, rows))?;
                }
                None => {
                    self.encoder.finish()?;
                    self.is_done = true;
                }
            }
            let bytes = self.encoder.take();
            if !bytes.is_empty() {
                return Ok(Some(bytes.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_body(content_type: &str, body: &str) -> std::result::Result<Asked, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        Asked::in_body(&headers, body.as_bytes()).map_err(|error| error.message)
    }

    #[test]
    fn a_request_says_the_same_in_every_form() {
        let asked = |schema: Option<&str>| {
            let schema = schema.map(str::to_owned);
            Ok(Asked { sql: "SELECT 'a+b'".into(), schema, start: None, end: None, timezone: None })
        };
        let json = r#"{"sql": "SELECT 'a+b'", "schema": "gold"}"#;
        assert_eq!(in_body("application/json; charset=utf-8", json), asked(Some("gold")));
        assert_eq!(in_body("Text/Plain", "SELECT 'a+b'"), asked(None));
        let form = "schema=gold&sql=SELECT+%27a%2Bb%27";
        assert_eq!(in_body("application/x-www-form-urlencoded", form), asked(Some("gold")));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (content_type, body, message) in [
            ("text/html", "SELECT 1", "the request's body is of type `text/html`"),
            (
                "application/json",
                r#"{"sql": "SELECT 1", "scheme": "gold"}"#,
                "the request's JSON is not understood: unknown field `scheme`, expected one of \
                 `sql`, `schema`, `start`, `end`, `timezone` at line 1 column 28",
            ),
            (
                "application/x-www-form-urlencoded",
                "start=a",
                "the request is not understood: missing field `sql`",
            ),
            ("application/x-www-form-urlencoded", "sql=a&sql=b", "the request says `sql` twice"),
        ] {
            assert_eq!(in_body(content_type, body), Err(message.to_owned()), "{body}");
        }
    }

    #[test]
    fn terms_are_checked() {
        let terms = |pairs: &str| {
            let asked = Asked::in_pairs(format!("sql=a&{pairs}").as_bytes()).unwrap();
            asked.terms().map_err(|error| error.message)
        };
        let day = terms("start=2026-01-05&end=2026-01-06&timezone=Europe/Rome&schema=gold");
        let range = day.unwrap().range.unwrap();
        assert_eq!((range.end.0 - range.start.0) / 3_600_000_000, 24);
        assert_eq!(terms("start=2026-01-05"), Err("`start` and `end` belong together".into()));
        assert_eq!(terms("timezone=Europe/Rme"), Err("unknown time zone `Europe/Rme`".into()));
        assert_eq!(terms("schema=lead"), Err("unknown layer `lead`".into()));
    }
}
