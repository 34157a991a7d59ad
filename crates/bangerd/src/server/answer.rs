//! Answers that are errors, and reading requests.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use banger_api::{ErrorBody, ErrorResponse};
use banger_model::{Class, Code, Error};
use serde::de::DeserializeOwned;

use crate::random;

/// The largest body of a request.
const BODY_MAX: usize = 1 << 20;

/// An error as an answer.
pub(super) struct Failed(Error);

/// What handlers return.
pub(super) type Answer<T> = std::result::Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let error = logged(self.0);
        let body = ErrorBody::from(&error);
        (status(&error), Json(ErrorResponse { error: body })).into_response()
    }
}

/// The error with the id under which the log explains it: that of its operation, or, for a
/// request that was refused before there was one, an id of its own.
fn logged(error: Error) -> Error {
    if error.op_id().is_some() {
        return error;
    }
    match random::hex(4) {
        Ok(id) => {
            let code = error.code().as_str();
            if error.class() == Class::Internal {
                tracing::error!(op = %id, code, "request failed: {}", error.chain());
            } else {
                tracing::info!(op = %id, code, "request refused: {}", error.chain());
            }
            error.operation(id)
        }
        Err(without) => {
            tracing::error!("{}, without an id: {}", error.chain(), without.chain());
            error
        }
    }
}

/// What an error is in HTTP.
fn status(error: &Error) -> StatusCode {
    match (error.class(), error.code()) {
        (_, Code::NotFound) => StatusCode::NOT_FOUND,
        (_, Code::Ambiguous | Code::AlreadyExists | Code::Conflict | Code::Cancelled) => {
            StatusCode::CONFLICT
        }
        (Class::User | Class::Config, _) => StatusCode::BAD_REQUEST,
        (_, Code::NoSpace) => StatusCode::INSUFFICIENT_STORAGE,
        (Class::Environment, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Class::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a path that is no route.
pub(super) async fn unknown_route(uri: Uri) -> Failed {
    Failed(
        Error::new(
            Code::NotFound,
            format!("there is no route `{}`", uri.path().escape_debug()),
        )
        .hint("crates/api/openapi.json describes the API"),
    )
}

/// The answer to a method that a route does not have.
pub(super) async fn unknown_method(method: Method, uri: Uri) -> Response {
    let error = Error::new(
        Code::InvalidArgument,
        format!(
            "the route `{}` has no method `{}`",
            uri.path().escape_debug(),
            method.as_str().escape_debug()
        ),
    )
    .hint("crates/api/openapi.json describes the API");
    let mut response = Failed(error).into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// The one variable segment of a path, as the client meant it.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Segment(segment)),
            // No name or id is anything but ASCII.
            Err(error) => Err(Error::new(Code::NotFound, "there is nothing of that name")
                .because(error.body_text())
                .into()),
        }
    }
}

/// The query of a path.
pub(super) struct Options<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Options<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(options)) => Ok(Options(options)),
            Err(error) => Err(Error::new(
                Code::InvalidArgument,
                "the query is not what the route takes",
            )
            .hint("crates/api/openapi.json describes the API")
            .because(error.body_text())
            .into()),
        }
    }
}

/// A JSON body, read whole before it is looked at.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, _state: &S) -> Answer<Self> {
        let bytes = axum::body::to_bytes(request.into_body(), BODY_MAX)
            .await
            .map_err(|error| {
                Error::new(
                    Code::InvalidArgument,
                    format!("the request could not be read, or is larger than {BODY_MAX} bytes"),
                )
                .because(error)
            })?;
        let nonsense = || {
            Error::new(
                Code::InvalidArgument,
                "the request is not what the route takes",
            )
            .hint("crates/api/openapi.json describes the API")
        };
        // Fields would also be taken in order from an array, which nobody means.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(nonsense().because("it is no JSON object").into());
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| nonsense().because(error))?;
        Ok(Body(value))
    }
}
