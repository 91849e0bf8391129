//! Why an HTTP request was not served, as the API's clients expect it.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use realm_core::refusal::Refusal;
use serde_json::{Value, json};

use super::response::Form;

/// A status and an error object.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after_ms: Option<u64>,
}

const INVALID: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";
const SERVER: &str = "server_error";

impl Problem {
    /// A parameter that is wrong, or right and not supported.
    pub(super) fn parameter(param: impl Into<String>, message: impl Into<String>) -> Self {
        let problem = Self::from(Refusal::Invalid(message.into()));
        Self { param: Some(param.into()), ..problem }
    }

    /// A refusal for something that one parameter says.
    pub(super) fn about(refusal: Refusal, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::from(refusal) }
    }

    /// The refusal of a call that was made in `form`, which names what was too long.
    pub(super) fn of_call(refusal: Refusal, form: Form) -> Self {
        let is_too_long =
            matches!(refusal, Refusal::TooLong { .. } | Refusal::TooLongForLimit { .. });
        let param = is_too_long.then(|| form.input().to_owned());
        let problem = Self::from(refusal);
        Self { param: param.or(problem.param), ..problem }
    }

    /// The refusal of a socket: this door's status, and the code the socket itself would use.
    pub(crate) fn in_wire_words(refusal: Refusal) -> Self {
        let code = refusal.code();
        Self { code, ..Self::from(refusal) }
    }

    pub(crate) fn nothing_here() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "unknown_url", "nothing is served at this address")
    }

    pub(crate) fn wrong_method() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::plain(status, "method_not_supported", "this address takes another method")
    }

    pub(crate) fn upgrade_required(message: &str) -> Self {
        Self::plain(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
    }

    fn plain(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            kind: INVALID,
            code,
            param: None,
            message: message.to_owned(),
            retry_after_ms: None,
        }
    }

    /// `{"error": ..}`, which is also what a broken stream ends with.
    pub(super) fn to_json(&self) -> Value {
        let Self { status: _, kind, code, param, message, retry_after_ms } = self;
        let mut error = json!({"message": message, "type": kind, "param": param, "code": code});
        if let Some(retry_after_ms) = retry_after_ms {
            error["retry_after_ms"] = json!(retry_after_ms);
        }
        json!({ "error": error })
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(retry_after_ms) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, retry_after_ms.div_ceil(1000).into());
            // The official clients read this one first.
            headers.insert(HeaderName::from_static("retry-after-ms"), retry_after_ms.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        headers
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, self.headers(), Json(self.to_json())).into_response()
    }
}

impl From<Refusal> for Problem {
    /// The API's own codes where it has one, Realm's where it has none.
    fn from(refusal: Refusal) -> Self {
        let (status, kind, code, param) = match &refusal {
            Refusal::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", None)
            }
            Refusal::Suspended | Refusal::NotAllowed(_) => {
                (StatusCode::FORBIDDEN, PERMISSION, refusal.code(), None)
            }
            Refusal::UnknownFunction(_) => (StatusCode::NOT_FOUND, INVALID, refusal.code(), None),
            Refusal::UnknownModel(_) => {
                (StatusCode::NOT_FOUND, INVALID, "model_not_found", Some("model"))
            }
            Refusal::UnknownPipeline(_) => {
                (StatusCode::NOT_FOUND, INVALID, refusal.code(), Some("model"))
            }
            Refusal::Invalid(_) => (StatusCode::BAD_REQUEST, INVALID, refusal.code(), None),
            Refusal::Unsupported(_) => {
                (StatusCode::BAD_REQUEST, INVALID, refusal.code(), Some("model"))
            }
            Refusal::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, INVALID, refusal.code(), None)
            }
            Refusal::TooManyRequests { .. } | Refusal::TooManyCalls { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", None)
            }
            Refusal::TooManyTokens { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", None)
            }
            Refusal::TooLong { .. }
            | Refusal::TooLongForLimit { .. }
            | Refusal::TextTooLong { .. } => {
                (StatusCode::BAD_REQUEST, INVALID, "context_length_exceeded", None)
            }
            Refusal::ModelNotReady { .. }
            | Refusal::ProgramNotReady { .. }
            | Refusal::Busy { .. }
            | Refusal::Starting
            | Refusal::Draining
            | Refusal::Moved => (StatusCode::SERVICE_UNAVAILABLE, SERVER, refusal.code(), None),
            Refusal::DeadlineExceeded { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, SERVER, refusal.code(), None)
            }
            Refusal::SlowReader | Refusal::Cancelled => {
                (StatusCode::REQUEST_TIMEOUT, INVALID, refusal.code(), None)
            }
            Refusal::ProgramLimit { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, INVALID, refusal.code(), None)
            }
            Refusal::ProgramFailed(_) => (StatusCode::BAD_GATEWAY, SERVER, refusal.code(), None),
            Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, refusal.code(), None),
        };
        Self {
            status,
            kind,
            code,
            param: param.map(str::to_owned),
            message: refusal.to_string(),
            retry_after_ms: refusal.retry_after_ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_too_fast_is_told_when_to_come_back() {
        let problem = Problem::from(Refusal::TooManyTokens { per_minute: 6, retry_after_ms: 1200 });
        let headers = problem.headers();
        assert_eq!(problem.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(headers["retry-after-ms"], "1200");
        assert_eq!(problem.to_json()["error"]["code"], "rate_limit_exceeded");
    }

    #[test]
    fn an_input_that_is_too_long_is_named_as_its_own_form_names_it() {
        for (form, param) in [(Form::Chat, "messages"), (Form::Completion, "prompt")] {
            let refusal = Refusal::TooLong { tokens: 65, tokens_max: 64 };
            let error = &Problem::of_call(refusal, form).to_json()["error"];
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!(param), &json!("context_length_exceeded"))
            );
        }
        let error =
            &Problem::of_call(Refusal::UnknownModel("m".into()), Form::Chat).to_json()["error"];
        assert_eq!(error["param"], "model");
    }

    #[test]
    fn a_wrong_key_gets_the_error_the_official_clients_know() {
        let problem = Problem::from(Refusal::Unauthenticated);
        assert_eq!(problem.status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            problem.to_json(),
            json!({"error": {
                "message": "the API key is missing, wrong, expired or revoked",
                "type": "invalid_request_error",
                "param": null,
                "code": "invalid_api_key",
            }})
        );
    }
}
