//! Where the lake is: a location becomes an object store, and what object stores complain about
//! becomes one clear error. Knows nothing of tables.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
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

/// What a store's error text gives away, and what is said about it.
struct Symptom {
    text: &'static str,
    kind: ErrorKind,
    message: &'static str,
    hint: &'static str,
}

const fn symptom(
    text: &'static str,
    kind: ErrorKind,
    message: &'static str,
    hint: &'static str,
) -> Symptom {
    Symptom { text, kind, message, hint }
}

const FREE_SPACE: &str = "free some space; nothing of this was committed";
const MISSING_RIGHT: &str = "these keys lack the right; see the policies in `minio/`";

/// In the order they are looked for.
const SYMPTOMS: [Symptom; 14] = [
    symptom("No space left on device", ErrorKind::Exhausted, "the disk is full", FREE_SPACE),
    symptom("StorageFull", ErrorKind::Exhausted, "the object store is full", FREE_SPACE),
    symptom("Disk quota exceeded", ErrorKind::Exhausted, "the disk quota is used up", FREE_SPACE),
    symptom(
        "NoSuchBucket",
        ErrorKind::NotFound,
        "there is no such bucket",
        "create the bucket, or correct `lake`",
    ),
    symptom(
        "InvalidAccessKeyId",
        ErrorKind::Denied,
        "the access key is not known",
        "check `s3.access_key_id`",
    ),
    symptom(
        "SignatureDoesNotMatch",
        ErrorKind::Denied,
        "the secret key is wrong",
        "check `s3.secret_access_key`",
    ),
    symptom("AccessDenied", ErrorKind::Denied, "access denied", MISSING_RIGHT),
    // An answer without a body, as to a HEAD request.
    symptom("lacked the necessary privileges", ErrorKind::Denied, "access denied", MISSING_RIGHT),
    symptom(
        "Permission denied",
        ErrorKind::Denied,
        "permission denied",
        "check who owns the lake's folder",
    ),
    symptom(
        "Read-only file system",
        ErrorKind::Denied,
        "the file system is read-only",
        "mount the lake's folder writable",
    ),
    symptom(
        "Connection refused",
        ErrorKind::Unavailable,
        "connection refused",
        "check `s3.endpoint`; is the store running?",
    ),
    symptom(
        "dns error",
        ErrorKind::Unavailable,
        "the host is not known",
        "check the host name in `s3.endpoint`",
    ),
    symptom(
        "timed out",
        ErrorKind::Unavailable,
        "the store does not answer",
        "check `s3.endpoint` and the network",
    ),
    symptom(
        "error sending request",
        ErrorKind::Unavailable,
        "the store cannot be reached",
        "check `s3.endpoint` and the network",
    ),
];

/// One clear error from whatever an object store, or a library above one, returned. `doing` says
/// what was attempted and on what.
pub fn store_error(doing: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let source = source.into();
    let mut said = source.to_string();
    let mut cause: Option<&(dyn StdError + 'static)> = source.source();
    let mut missing = false;
    while let Some(error) = cause {
        said.push_str(": ");
        said.push_str(&error.to_string());
        missing |= matches!(
            error.downcast_ref::<object_store::Error>(),
            Some(object_store::Error::NotFound { .. })
        );
        cause = error.source();
    }
    let source = match answer_of(&said) {
        // What S3 says in its own words instead of the document around them.
        Some(answer) => {
            tracing::debug!(said, "the object store refused");
            answer.to_owned().into()
        }
        None => source,
    };
    if let Some(symptom) = SYMPTOMS.iter().find(|symptom| said.contains(symptom.text)) {
        return Error::new(symptom.kind, format!("{doing}: {}", symptom.message))
            .hint(symptom.hint)
            .source(source);
    }
    let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Unavailable };
    Error::new(kind, doing.to_owned()).source(source)
}

/// The `Message` in the XML of an S3 error.
fn answer_of(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("<Message>")?;
    let (message, _) = rest.split_once("</Message>")?;
    (!message.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symptoms_become_kinds_and_hints() {
        let io = |text: &str| std::io::Error::other(text.to_owned());
        let error = store_error("cannot write `gold.a`", io("os: No space left on device (28)"));
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert_eq!(error.message, "cannot write `gold.a`: the disk is full");
        let error = store_error("cannot list the lake", io("<Code>NoSuchBucket</Code>"));
        assert_eq!((error.kind, error.kind.exit_code()), (ErrorKind::NotFound, 1));
    }

    #[test]
    fn of_an_xml_answer_only_its_message_is_shown() {
        let answer = "403: <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>\
                      <Message>Access Denied.</Message><Resource>/a</Resource></Error>";
        let error = store_error("cannot read `gold.a`", std::io::Error::other(answer));
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
