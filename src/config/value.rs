//! Texts of settings to values: sizes, durations, counts, and where the lake is. Pure, but that links
//! in folders are followed.

use std::path::{Component, Path, PathBuf};

use url::Url;

use super::settings::Form;
use crate::error::{Error, Result};

/// Reads a count, a size in bytes or a duration in milliseconds. The message continues a key.
pub fn number(text: &str, form: Form) -> Result<u64> {
    let (units, minimum, hint): (&[(&str, u64)], u64, &str) = match form {
        Form::Bytes => (&BYTE_UNITS, 1, "write a number of bytes, or 64KiB, 128MiB, 1GiB"),
        Form::Millis => (&MILLI_UNITS, 1, "write a number of milliseconds, or 500ms, 30s, 5m, 1h"),
        Form::Count(minimum) => (&[("", 1)], minimum, "write a whole number"),
        Form::Text | Form::Flag | Form::Choice(_) | Form::Options => {
            return Err(Error::internal("is not a number"));
        }
    };
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor = units.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    let found = digits.parse::<u64>().ok().zip(factor);
    let Some(value) = found.and_then(|(number, factor)| number.checked_mul(factor)) else {
        return Err(Error::invalid(format!("cannot be `{text}`")).hint(hint));
    };
    if value < minimum {
        return Err(Error::invalid(format!("is {value}, but must be at least {minimum}")));
    }
    Ok(value)
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const MILLI_UNITS: [(&str, u64); 5] =
    [("", 1), ("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A folder, relative to `project` or absolute, or a URL; the result ends in `/`.
pub fn lake(text: &str, project: &Path) -> Result<Url> {
    if !text.contains("://") {
        if text.starts_with("~/") {
            return Err(Error::invalid(format!("`lake` is `{text}`, and `~` is not expanded"))
                .hint("write ${HOME}/… in flowguard.toml, or the whole path"));
        }
        return folder_url(&project.join(text))
            .ok_or_else(|| Error::invalid(format!("`lake` is `{text}`, which is not a path")));
    }
    let not_a_place = |what: &str| {
        Error::invalid(format!("`lake` {what}"))
            .hint("write a folder, file:///folder or s3://bucket/prefix")
    };
    let mut url = Url::parse(text).map_err(|_| not_a_place("is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid("`lake` holds credentials")
            .hint("set s3.access_key_id and s3.secret_access_key"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(not_a_place("has a query or a fragment"));
    }
    match url.scheme() {
        "file" if url.to_file_path().is_err() => return Err(not_a_place("is not a local folder")),
        "file" => {}
        "s3" if !url.has_host() => return Err(not_a_place("names no bucket")),
        "s3" if url.port().is_some() => {
            return Err(Error::invalid("`lake` names a server where the bucket belongs")
                .hint("write s3://bucket/prefix, and set s3.endpoint"));
        }
        "s3" => {}
        other => return Err(not_a_place(&format!("cannot be on `{other}://`"))),
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// A local folder as a URL; `None` if the path is relative. A URL has no `..`, and where a link leads
/// elsewhere it means another folder there than in a URL.
pub fn folder_url(path: &Path) -> Option<Url> {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                found = found.canonicalize().unwrap_or(found);
                found.pop();
            }
            part => found.push(part),
        }
    }
    Url::from_directory_path(found).ok()
}

/// An address to listen at. The message continues a key.
pub fn address(text: &str) -> Result<()> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        }
    };
    if !is_host || port.parse::<u16>().is_err() {
        return Err(Error::invalid(format!("cannot be `{text}`"))
            .hint("write host:port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_units_of_their_form() {
        let read = |text, form| number(text, form).map_err(|error| error.message);
        assert_eq!(read("64MiB", Form::Bytes), Ok(64 << 20));
        assert_eq!(read("64 MiB", Form::Bytes), Ok(64 << 20));
        assert_eq!(read("5m", Form::Millis), Ok(300_000));
        assert_eq!(read("0", Form::Count(0)), Ok(0));
        assert_eq!(read("0", Form::Count(1)), Err("is 0, but must be at least 1".into()));
        assert_eq!(read("5M", Form::Bytes), Err("cannot be `5M`".into()));
        assert_eq!(read("-1", Form::Count(0)), Err("cannot be `-1`".into()));
        assert_eq!(read("99999999TiB", Form::Bytes), Err("cannot be `99999999TiB`".into()));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["127.0.0.1:8080", "[::1]:0", "localhost:31337", "lake-1.example:443"] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in ["", ":8080", "localhost", "a:70000", "::1:80", "[::x]:80", "http://a:80"] {
            assert_eq!(address(text).unwrap_err().message, format!("cannot be `{text}`"));
        }
    }

    #[test]
    fn a_lake_is_a_folder_or_a_bucket() {
        let read = |text| match lake(text, Path::new("/p")) {
            Ok(url) => url.to_string(),
            Err(error) => error.message,
        };
        assert_eq!(read(".flowguard"), "file:///p/.flowguard/");
        assert_eq!(read("/data/my lake"), "file:///data/my%20lake/");
        assert_eq!(read("s3://bucket/a"), "s3://bucket/a/");
        assert_eq!(read("s3://bucket"), "s3://bucket/");
        assert_eq!(read("gs://bucket"), "`lake` cannot be on `gs://`");
        assert_eq!(read("s3://k:v@bucket/a"), "`lake` holds credentials");
        assert_eq!(read("s3:///a"), "`lake` names no bucket");
    }
}
