//! Where the lake is: a location becomes an object store, and what object stores complain about
//! becomes one clear error. Knows nothing of tables.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use deltalake::kernel::transaction::TransactionError;
use object_store::aws::AmazonS3Builder;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::durable::Durable;
use crate::error::{Error, ErrorKind, Result};

/// How long one S3 request may keep retrying before its error is shown.
const S3_RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const S3_RETRIES_MAX: usize = 6;
const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Access to an S3-compatible store. Keys that are absent are looked for in the instance's role.
#[derive(Clone, Default)]
pub struct S3Access {
    /// `None`: AWS.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub session_token: Option<String>,
    pub path_style: bool,
    pub allow_http: bool,
}

/// The store that holds `root`, addressed from the bucket's or file system's own root.
pub fn open_store(root: &Url, s3: &S3Access) -> Result<Arc<dyn ObjectStore>> {
    match root.scheme() {
        "file" => {
            let path = root
                .to_file_path()
                .map_err(|()| Error::invalid(format!("`{root}` is not a path on this machine")))?;
            std::fs::create_dir_all(&path).map_err(|source| {
                let shown = path.display();
                store_error(&format!("cannot create the lake folder `{shown}`"), source)
            })?;
            Ok(Arc::new(Durable::new(LocalFileSystem::new())))
        }
        "s3" => open_s3(root, s3),
        scheme => Err(Error::invalid(format!("the lake's scheme `{scheme}` is not supported"))
            .hint("use a folder, file:///path or s3://bucket/prefix")),
    }
}

fn open_s3(root: &Url, s3: &S3Access) -> Result<Arc<dyn ObjectStore>> {
    let bucket = root.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(|| {
        Error::invalid(format!("`{root}` names no bucket")).hint("write s3://bucket/prefix")
    })?;
    if let Some(endpoint) = &s3.endpoint
        && endpoint.starts_with("http://")
        && !s3.allow_http
    {
        return Err(Error::invalid(format!("`{endpoint}` is not encrypted")).hint(
            "use https, or set `s3.allow_http = true` (FLOWGUARD_S3_ALLOW_HTTP) for a local MinIO",
        ));
    }
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_region(&s3.region)
        .with_allow_http(s3.allow_http)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_client_options(
            ClientOptions::new()
                .with_allow_http(s3.allow_http)
                .with_connect_timeout(S3_CONNECT_TIMEOUT),
        )
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: S3_RETRIES_MAX,
            retry_timeout: S3_RETRY_TIMEOUT,
        });
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(key) = &s3.access_key_id {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = &s3.secret_access_key {
        builder = builder.with_secret_access_key(secret);
    }
    if let Some(token) = &s3.session_token {
        builder = builder.with_token(token);
    }
    let store = builder
        .build()
        .map_err(|source| Error::invalid(format!("cannot use `{root}`")).source(source))?;
    Ok(Arc::new(store))
}

/// What is said about a refusal, whatever library brought it.
struct Symptom {
    kind: ErrorKind,
    message: &'static str,
    hint: &'static str,
}

const fn symptom(kind: ErrorKind, message: &'static str, hint: &'static str) -> Symptom {
    Symptom { kind, message, hint }
}

const FREE_SPACE: &str = "free some space; nothing of this was committed";
const FOREIGN: Symptom = symptom(
    ErrorKind::Invalid,
    "its log asks for something that FlowGuard does not read",
    "another writer changed it: have that writer undo it, or copy the rows into a new table",
);
const MISSING_RIGHT: &str = "these keys lack the right; see the policies in `minio/`";

/// Of an operating system.
fn io_symptom(kind: io::ErrorKind) -> Option<Symptom> {
    Some(match kind {
        io::ErrorKind::StorageFull => symptom(ErrorKind::Exhausted, "the disk is full", FREE_SPACE),
        io::ErrorKind::QuotaExceeded => {
            symptom(ErrorKind::Exhausted, "the disk quota is used up", FREE_SPACE)
        }
        io::ErrorKind::PermissionDenied => {
            symptom(ErrorKind::Denied, "permission denied", "check who owns the lake's folder")
        }
        io::ErrorKind::ReadOnlyFilesystem => symptom(
            ErrorKind::Denied,
            "the file system is read-only",
            "mount the lake's folder writable",
        ),
        io::ErrorKind::ConnectionRefused => symptom(
            ErrorKind::Unavailable,
            "connection refused",
            "check `s3.endpoint`; is the store running?",
        ),
        _ => return None,
    })
}

/// Of S3, by the code of its answer.
fn s3_symptom(code: &str) -> Option<Symptom> {
    Some(match code {
        "NoSuchBucket" => symptom(
            ErrorKind::NotFound,
            "there is no such bucket",
            "create the bucket, or correct `lake`",
        ),
        "InvalidAccessKeyId" => {
            symptom(ErrorKind::Denied, "the access key is not known", "check `s3.access_key_id`")
        }
        "SignatureDoesNotMatch" => {
            symptom(ErrorKind::Denied, "the secret key is wrong", "check `s3.secret_access_key`")
        }
        "AccessDenied" => symptom(ErrorKind::Denied, "access denied", MISSING_RIGHT),
        "XMinioStorageFull" => {
            symptom(ErrorKind::Exhausted, "the object store is full", FREE_SPACE)
        }
        _ => return None,
    })
}

/// Of a connection.
fn http_symptom(kind: HttpErrorKind) -> Option<Symptom> {
    Some(match kind {
        HttpErrorKind::Connect => symptom(
            ErrorKind::Unavailable,
            "the store cannot be reached",
            "check the host and port in `s3.endpoint`",
        ),
        HttpErrorKind::Timeout => symptom(
            ErrorKind::Unavailable,
            "the store does not answer",
            "check `s3.endpoint` and the network",
        ),
        HttpErrorKind::Request | HttpErrorKind::Interrupted => symptom(
            ErrorKind::Unavailable,
            "the connection to the store broke",
            "check `s3.endpoint` and the network",
        ),
        _ => return None,
    })
}

/// What the layers of an error say, each of which may know what the others don't.
#[derive(Default)]
struct Findings {
    io: Option<io::ErrorKind>,
    http: Option<HttpErrorKind>,
    /// Of an answer without a body, as to a HEAD request, this is all there is.
    is_denied: bool,
    is_missing: bool,
    /// The log asks for something, or holds something, that this program does not read.
    is_foreign: bool,
    /// The body of an answer of S3, and the text around it.
    answer: Option<String>,
}

impl Findings {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut found = Self::default();
        let mut layer = Some(error);
        while let Some(error) = layer {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                found.io = Some(error.kind());
            } else if let Some(error) = error.downcast_ref::<HttpError>() {
                found.http.get_or_insert(error.kind());
            } else if let Some(error) = error.downcast_ref::<object_store::Error>() {
                use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
                found.is_missing |= matches!(error, NotFound { .. });
                found.is_denied |=
                    matches!(error, PermissionDenied { .. } | Unauthenticated { .. });
                found.answer.get_or_insert_with(|| error.to_string());
            }
            found.is_foreign |= is_foreign(error);
            layer = below(error);
        }
        found
    }

    fn symptom(&self) -> Option<Symptom> {
        let code = self.answer.as_deref().and_then(|answer| element(answer, "Code"));
        let denied = self.is_denied && self.io.is_none();
        code.and_then(s3_symptom)
            .or_else(|| self.io.and_then(io_symptom))
            .or_else(|| self.http.and_then(http_symptom))
            .or_else(|| {
                denied.then_some(symptom(ErrorKind::Denied, "access denied", MISSING_RIGHT))
            })
            .or_else(|| self.is_foreign.then_some(FOREIGN))
    }
}

/// A log that is whole, and asks for what this program does not read, or holds it.
fn is_foreign(error: &(dyn StdError + 'static)) -> bool {
    use buoyant_kernel::Error::{
        Arrow, InvalidColumnMappingMode, MalformedJson, Schema, Unsupported,
    };
    if let Some(error) = error.downcast_ref::<buoyant_kernel::Error>() {
        return match error {
            Unsupported(_) | Schema(_) | InvalidColumnMappingMode(_) => true,
            Arrow(error) => matches!(error, ArrowError::SchemaError(_)),
            // Such as a schema with two columns of one name.
            MalformedJson(error) => error.is_data(),
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<TransactionError>() {
        return matches!(error, TransactionError::UnsupportedTableFeatures(_));
    }
    let is_schema = |error: &ArrowError| matches!(error, ArrowError::SchemaError(_));
    error.downcast_ref::<ArrowError>().is_some_and(is_schema)
        || error.downcast_ref::<serde_json::Error>().is_some_and(serde_json::Error::is_data)
}

/// Whether a store, a file system or the way there failed, below whatever libraries.
pub fn is_of_store(error: &(dyn StdError + 'static)) -> bool {
    let mut layer = Some(error);
    while let Some(error) = layer {
        let is_of_log =
            error.is::<deltalake::DeltaTableError>() || error.is::<buoyant_kernel::Error>();
        if is_of_log
            || error.is::<object_store::Error>()
            || error.is::<HttpError>()
            || error.is::<io::Error>()
        {
            return true;
        }
        layer = below(error);
    }
    false
}

/// Whether the store failed, and not for an object that is not there; what decompresses pages fails
/// as a file system does.
pub fn is_of_the_way(error: &(dyn StdError + 'static)) -> bool {
    let mut layer = Some(error);
    while let Some(error) = layer {
        match error.downcast_ref::<object_store::Error>() {
            Some(object_store::Error::NotFound { .. }) => return false,
            Some(_) => return true,
            None => layer = below(error),
        }
    }
    false
}

/// The next layer of an error, also where its type does not name it as the source.
pub(super) fn below<'a>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a (dyn StdError + 'static)> {
    use buoyant_kernel::Error::{Backtraced, IOError, ObjectStore};
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
    }
    match error.downcast_ref::<buoyant_kernel::Error>() {
        Some(ObjectStore(inner)) => Some(inner),
        Some(IOError(inner)) => Some(inner),
        Some(Backtraced { source, .. }) => Some(source.as_ref()),
        _ => error.source(),
    }
}

/// One clear error from whatever an object store, or a library above one, returned. `doing` says
/// what was attempted and on what.
pub fn store_error(doing: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let source = source.into();
    let found = Findings::of(source.as_ref());
    let said = found.answer.as_deref().and_then(|answer| element(answer, "Message"));
    let symptom = found.symptom();
    let source = match said {
        // What S3 says in its own words instead of the document around them.
        Some(said) => {
            tracing::debug!(%source, "the object store refused");
            said.to_owned().into()
        }
        None => source,
    };
    if let Some(Symptom { kind, message, hint }) = symptom {
        return Error::new(kind, format!("{doing}: {message}")).hint(hint).source(source);
    }
    let kind = if found.is_missing { ErrorKind::NotFound } else { ErrorKind::Unavailable };
    Error::new(kind, doing.to_owned()).source(source)
}

/// The content of an element in the XML of an S3 error.
fn element<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = answer.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    (!content.is_empty()).then_some(content)
}

#[cfg(test)]
mod tests {
    use deltalake::DeltaTableError;

    use super::*;

    /// As delta-rs hands out what its kernel met.
    fn in_the_log(error: object_store::Error) -> DeltaTableError {
        DeltaTableError::KernelError(buoyant_kernel::Error::ObjectStore(error))
    }

    fn generic(source: impl Into<Box<dyn StdError + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    /// They were tried again, as if the store had been away.
    #[test]
    fn what_this_program_does_not_read_is_wrong_input() {
        use buoyant_kernel::Error::{Schema, Unsupported};
        for error in [Unsupported("typeWidening".into()), Schema("`id` and `ID`".into())] {
            let error = store_error("cannot read `gold.a`", DeltaTableError::KernelError(error));
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.ends_with("something that FlowGuard does not read"));
        }
    }

    #[test]
    fn a_refusal_is_known_below_whatever_layers() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let parquet = deltalake::parquet::errors::ParquetError::External(Box::new(generic(full())));
        let layers: [Box<dyn StdError + Send + Sync>; 5] = [
            full().into(),
            generic(full()).into(),
            in_the_log(generic(full())).into(),
            io::Error::other(generic(full())).into(),
            DeltaTableError::from(parquet).into(),
        ];
        for layered in layers {
            let text = layered.to_string();
            let error = store_error("cannot write `gold.a`", layered);
            assert_eq!(error.kind, ErrorKind::Exhausted, "{text}");
            assert_eq!(error.message, "cannot write `gold.a`: the disk is full", "{text}");
        }
    }

    #[test]
    fn a_word_within_a_text_decides_nothing() {
        let text = "no column `AccessDenied`, nor NoSuchBucket: Permission denied, timed out";
        let error = store_error("cannot read `gold.a`", generic(text));
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::Unavailable, "cannot read `gold.a`")
        );
    }

    #[test]
    fn what_is_not_there_is_told_from_what_may_not_be_seen() {
        let of =
            |error: object_store::Error| store_error("cannot read `gold.a`", in_the_log(error));
        let (path, source) = ("a".to_owned(), || "403".to_owned().into());
        let missing = of(object_store::Error::NotFound { path: path.clone(), source: source() });
        let denied = of(object_store::Error::PermissionDenied { path, source: source() });
        assert_eq!((missing.kind, denied.kind), (ErrorKind::NotFound, ErrorKind::Denied));
        assert_eq!(denied.message, "cannot read `gold.a`: access denied");
    }

    #[test]
    fn of_an_xml_answer_only_its_message_is_shown() {
        let answer = "403: <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>\
                      <Message>Access Denied.</Message><Resource>/a</Resource></Error>";
        let error = store_error("cannot read `gold.a`", generic(answer));
        assert_eq!(error.message, "cannot read `gold.a`: access denied");
        assert_eq!(error.source.unwrap().to_string(), "Access Denied.");
    }

    #[test]
    fn plain_http_needs_consent() {
        let s3 = S3Access { endpoint: Some("http://127.0.0.1:9000".into()), ..S3Access::default() };
        let error = open_store(&Url::parse("s3://lake").unwrap(), &s3).unwrap_err();
        assert_eq!(error.message, "`http://127.0.0.1:9000` is not encrypted");
    }
}
