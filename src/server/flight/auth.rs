//! Who calls: every call proves it by its `authorization` header, and the handshake turns a user
//! and a password into a token, in the two forms that drivers know. Decides no rights.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::{BasicAuth, HandshakeRequest, HandshakeResponse};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Access, Principal};
use crate::error::{Error, ErrorKind, Result};
use crate::server::strangers::Peer;

const AUTHORIZATION: &str = "authorization";
/// Where clients of the older handshake send their token.
const OLDER_TOKEN: &str = "auth-token-bin";
/// How long a handshake may keep silent.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Who sends `request`; its connection is known from then on.
pub async fn authenticate<T>(
    access: &Access,
    request: &Request<T>,
    now: i64,
) -> Result<Arc<Principal>> {
    let header = header_of(request.metadata())?;
    let principal = authorize(access, header, address_of(request), now).await?;
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.guest.is_now_known(&principal)?;
    }
    Ok(principal)
}

/// The client's credentials are in the call's header or, as the older form has it, in the first
/// message; the token goes back both ways.
pub async fn handshake(
    access: &Access,
    request: Request<Streaming<HandshakeRequest>>,
    now: i64,
) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, Status> {
    let connection = request.extensions().get::<Peer>().cloned();
    let peer = address_of(&request);
    let header = header_of(request.metadata())?;
    let principal = match header {
        Some(header) => authorize(access, Some(header), peer, now).await?,
        None => match first_message(request.into_inner()).await? {
            Some(BasicAuth { username, password }) => {
                let access = access.clone();
                let check = move || access.password(&username, &password, peer, now);
                off_thread(check).await?
            }
            None => authorize(access, None, peer, now).await?,
        },
    };
    if let Some(connection) = connection {
        connection.guest.is_now_known(&principal)?;
    }
    let token = access.bearer(&principal, now);
    let header = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::internal("a token is not a header"))?;
    let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
    let mut response = Response::new(futures::stream::iter([Ok(answer)]).boxed());
    response.metadata_mut().insert(AUTHORIZATION, header);
    Ok(response)
}

/// Without a connection that knows its other end, all callers count as one.
fn address_of<T>(request: &Request<T>) -> IpAddr {
    if let Some(peer) = request.extensions().get::<Peer>() {
        return peer.address;
    }
    request.remote_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

fn header_of(metadata: &MetadataMap) -> Result<Option<String>> {
    let unreadable = |_| {
        Error::new(ErrorKind::Unauthenticated, format!("the header `{AUTHORIZATION}` is not text"))
    };
    if let Some(header) = metadata.get(AUTHORIZATION) {
        return header.to_str().map(|header| Some(header.to_owned())).map_err(unreadable);
    }
    let token = metadata.get_bin(OLDER_TOKEN).and_then(|token| token.to_bytes().ok());
    Ok(token.map(|token| format!("Bearer {}", String::from_utf8_lossy(&token))))
}

async fn first_message(mut messages: Streaming<HandshakeRequest>) -> Result<Option<BasicAuth>> {
    let silent = |_| {
        Error::new(ErrorKind::Unauthenticated, "the handshake brought no user and password")
            .hint("send them as `authorization: Basic`")
    };
    let first = tokio::time::timeout(HANDSHAKE_WAIT_MAX, messages.message()).await;
    let Some(first) = first.map_err(silent)?.ok().flatten() else { return Ok(None) };
    if first.payload.is_empty() {
        return Ok(None);
    }
    BasicAuth::decode(first.payload).map(Some).map_err(|_| {
        Error::new(ErrorKind::Unauthenticated, "the handshake is not a user and a password")
            .hint("send them as `authorization: Basic`")
    })
}

async fn authorize(
    access: &Access,
    header: Option<String>,
    peer: IpAddr,
    now: i64,
) -> Result<Arc<Principal>> {
    let is_slow = header.as_ref().and_then(|header| header.get(..6));
    if is_slow.is_none_or(|scheme| !scheme.eq_ignore_ascii_case("basic ")) {
        return access.authorize(header.as_deref(), peer, now);
    }
    let access = access.clone();
    off_thread(move || access.authorize(header.as_deref(), peer, now)).await
}

/// A password takes a core some 50 ms, which other calls must not wait for.
async fn off_thread(
    check: impl FnOnce() -> Result<Arc<Principal>> + Send + 'static,
) -> Result<Arc<Principal>> {
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|source| Error::internal("a password check ended abnormally").source(source))?
}
