//! An error as an answer: its status by its kind, and a JSON object that says what the command line
//! would say.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Diagnostic, Error, ErrorKind};

pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (status, kind) = status_of(error.kind);
        if status.is_server_error() {
            tracing::warn!(%error, source = ?error.source, "a request failed");
        }
        let diagnostics: Vec<Value> = error.diagnostics.iter().map(diagnostic).collect();
        let body = json!({
            "kind": kind,
            "message": error.message,
            "hint": error.hint,
            "diagnostics": diagnostics,
        });
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            for scheme in ["Basic realm=\"flowguard\", charset=\"UTF-8\"", "Bearer"] {
                let scheme = HeaderValue::from_static(scheme);
                response.headers_mut().append(WWW_AUTHENTICATE, scheme);
            }
        }
        response
    }
}

fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "denied"),
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "conflict"),
        ErrorKind::Exhausted => (StatusCode::TOO_MANY_REQUESTS, "exhausted"),
        ErrorKind::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "data_loss"),
        ErrorKind::RunFailed => (StatusCode::INTERNAL_SERVER_ERROR, "run_failed"),
        ErrorKind::Interrupted => (StatusCode::SERVICE_UNAVAILABLE, "interrupted"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

fn diagnostic(diagnostic: &Diagnostic) -> Value {
    json!({
        "line": diagnostic.line,
        "column": diagnostic.column,
        "width": diagnostic.width,
        "message": diagnostic.message,
        "text": diagnostic.text,
        "hint": diagnostic.hint,
    })
}
