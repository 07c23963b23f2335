//! Answering challenges: basic credentials, and tokens from the registry's
//! token server.
//!
//! Tokens are kept by what they allow, for as long as they are good. The
//! scope that is asked for is made from the request, never from what the
//! registry suggests. One thread at a time fetches tokens of a registry, so
//! that twenty uploads starting together ask once.
//!
//! # Specification
//! distribution "Token Authentication Specification" and "OAuth2 Token
//! Authentication"; RFC 6750.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Method;
use url::Url;

use super::challenge::{self, Challenge};
use super::client::{Client, Host, asked_to_wait, display_url};
use super::connection::{Answer, Payload};
use super::credentials::{Credential, CredentialError};
use super::error::{Failure, clean, error_message};
use super::origin::{self, Realm};
use super::retry::{Backoff, is_transient};

/// The largest answer of a token server that is read, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// The longest token that is taken; longer ones do not fit into a header.
const MAX_TOKEN: usize = 48 << 10;
/// How long a token is good when its server does not say, and at least.
const MIN_VALIDITY: u64 = 60;
/// How long a token is good at most, whatever its server says.
const MAX_VALIDITY: u64 = 24 * 3600;
/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(10);
/// Redirects followed at a token server.
const MAX_REDIRECTS: usize = 3;

/// What a request needs to be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub(super) repository: String,
    pub(super) actions: Actions,
    /// A second repository that is read, for mounting blobs.
    pub(super) from: Option<String>,
}

/// What is done to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actions {
    Pull,
    Push,
    Delete,
}

impl Access {
    /// Nothing but getting in.
    pub(super) fn login() -> Self {
        Self {
            repository: String::new(),
            actions: Actions::Pull,
            from: None,
        }
    }

    fn is_login(&self) -> bool {
        self.repository.is_empty()
    }

    fn scopes(&self) -> Vec<String> {
        let actions = match self.actions {
            Actions::Pull => "pull",
            Actions::Push => "pull,push",
            Actions::Delete => "delete,pull",
        };
        let mut scopes = Vec::new();
        if !self.is_login() {
            scopes.push(format!("repository:{}:{actions}", self.repository));
        }
        scopes.extend(
            self.from
                .iter()
                .map(|from| format!("repository:{from}:pull")),
        );
        scopes
    }
}

/// What is known about getting into one registry.
#[derive(Default)]
pub(super) struct HostAuth {
    state: Mutex<State>,
    secrets: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<Access, Token>,
    credentials: HashMap<String, Option<Credential>>,
    /// A helper that failed; it is told if the registry wants credentials
    /// after all.
    trouble: Option<(String, String)>,
}

struct Token {
    header: String,
    until: Instant,
    /// A new refresh token, which may make the old one void.
    refresh: Option<String>,
}

impl HostAuth {
    /// Notes what the registry asked for and forgets the credentials it
    /// `rejected`.
    pub(super) fn challenged<'a>(
        &self,
        challenges: impl Iterator<Item = &'a str>,
        rejected: Option<&str>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(challenge) = challenge::choose(challenges) {
            if state.challenge.as_ref() != Some(&challenge) {
                state.tokens.clear();
            }
            state.challenge = Some(challenge);
        }
        if let Some(rejected) = rejected {
            state.tokens.retain(|_, token| token.header != rejected);
        }
    }

    /// Takes known secrets out of a message that a registry sent.
    pub(super) fn redact(&self, message: String) -> String {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets
            .iter()
            .filter(|s| s.len() >= 4)
            .fold(message, |message, secret| {
                message.replace(secret.as_str(), "***")
            })
    }

    /// Whether the registry has asked for credentials.
    pub(super) fn was_challenged(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.challenge.is_some()
    }

    /// Why there were no credentials, when that is not the registry's affair.
    pub(super) fn trouble(&self) -> Option<Failure> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, reason) = state.trouble.clone()?;
        Some(CredentialError::Helper { name, reason }.into())
    }

    fn remember_secret(&self, secret: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.insert(secret.to_owned());
    }
}

impl Client {
    /// The `Authorization` header for a request to the registry; `None` while
    /// the registry has not asked for one, or where there is nothing to give.
    pub(super) fn authorization(
        &self,
        host: &Host,
        base: &Url,
        access: &Access,
    ) -> Result<Option<String>, Failure> {
        let mut state = host
            .auth
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(challenge) = state.challenge.clone() else {
            return Ok(None);
        };
        if let Some(token) = state.tokens.get(access)
            && token.until > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let credential = match state.credentials.get(&access.repository) {
            Some(known) => known.clone(),
            None => {
                let source = &self.inner.options.credentials;
                let found = match source.find(&host.name, &access.repository) {
                    // What is public can be had without it.
                    Err(CredentialError::Helper { name, reason }) => {
                        state.trouble = Some((name, reason));
                        None
                    }
                    found => found?,
                };
                if let Some(secret) = found.as_ref().map(Credential::secret) {
                    host.auth.remember_secret(secret);
                }
                state
                    .credentials
                    .insert(access.repository.clone(), found.clone());
                found
            }
        };
        match (challenge, credential) {
            (_, Some(Credential::RegistryToken(token))) => {
                check_token(&token)?;
                Ok(Some(format!("Bearer {token}")))
            }
            (Challenge::Basic, Some(Credential::Basic { username, password })) => {
                Ok(Some(basic(&username, &password)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service }, credential) => {
                let token =
                    self.fetch_token(base, &realm, service.as_deref(), access, credential)?;
                let value = token.header.trim_start_matches("Bearer ");
                host.auth.remember_secret(value);
                if let Some(refresh) = &token.refresh {
                    host.auth.remember_secret(refresh);
                    state.credentials.insert(
                        access.repository.clone(),
                        Some(Credential::IdentityToken(refresh.clone())),
                    );
                }
                let header = token.header.clone();
                state.tokens.insert(access.clone(), token);
                Ok(Some(header))
            }
        }
    }

    fn fetch_token(
        &self,
        base: &Url,
        realm: &str,
        service: Option<&str>,
        access: &Access,
        credential: Option<Credential>,
    ) -> Result<Token, Failure> {
        let url = Url::parse(realm)
            .map_err(|e| Failure::Protocol(format!("the token server's address is no URL: {e}")))?;
        let server = clean(url.host_str().unwrap_or_default());
        let refused = |reason| Failure::RealmRefused {
            host: server.clone(),
            reason,
        };
        let trust = origin::check_realm(base, &url).map_err(refused)?;
        let (credential, withheld) = match trust {
            Realm::Trusted => (credential, None),
            Realm::Anonymous(_) if self.inner.options.trusted_realms.contains(&server) => {
                (credential, None)
            }
            Realm::Anonymous(reason) => (None, credential.is_some().then_some(reason)),
        };
        if let (true, Some(reason)) = (access.is_login(), withheld) {
            return Err(refused(reason));
        }
        let answer = self.ask_for_token(&url, service, access, credential.as_ref())?;
        if let (401 | 403, Some(reason)) = (answer.status, withheld) {
            return Err(refused(reason));
        }
        if answer.status != 200 {
            let status = answer.status;
            let said = error_message(&answer.read_some());
            let mut message = format!("its token server {server} gives no token");
            if !said.is_empty() {
                message = format!("{message}: {said}");
            }
            return Err(Failure::Status { status, message });
        }
        let body = answer
            .read(MAX_TOKEN_ANSWER)
            .map_err(|e| Failure::Protocol(format!("the token server's answer: {e}")))?;
        let mut token = read_token(&body)?;
        // Only who uses a refresh token gets a new one to go on with.
        token.refresh = token
            .refresh
            .filter(|_| matches!(credential, Some(Credential::IdentityToken(_))));
        Ok(token)
    }

    /// Asks by `GET`, as all token servers allow; by OAuth2's `POST` with a
    /// refresh token, or where the server knows no `GET`.
    fn ask_for_token(
        &self,
        url: &Url,
        service: Option<&str>,
        access: &Access,
        credential: Option<&Credential>,
    ) -> Result<Answer, Failure> {
        let service = service.map(|s| ("service", s.to_owned()));
        let post = |grant: Vec<(&str, String)>| {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(service.iter().chain(&grant))
                .append_pair("client_id", "shiplap")
                .append_pair("scope", &access.scopes().join(" "))
                .finish();
            self.ask_token_server(url.clone(), Some(&form), None)
        };
        if let Some(Credential::IdentityToken(token)) = credential {
            return post(vec![
                ("grant_type", "refresh_token".into()),
                ("refresh_token", token.clone()),
            ]);
        }
        let mut with_query = url.clone();
        with_query
            .query_pairs_mut()
            .extend_pairs(&service)
            .extend_pairs(access.scopes().into_iter().map(|s| ("scope", s)));
        let Some(Credential::Basic { username, password }) = credential else {
            return self.ask_token_server(with_query, None, None);
        };
        with_query
            .query_pairs_mut()
            .append_pair("account", username);
        let authorization = basic(username, password);
        let answer = self.ask_token_server(with_query, None, Some(authorization))?;
        if !matches!(answer.status, 404 | 405) {
            return Ok(answer);
        }
        drop(answer.read_some());
        post(vec![
            ("grant_type", "password".into()),
            ("username", username.clone()),
            ("password", password.clone()),
        ])
    }

    fn ask_token_server(
        &self,
        url: Url,
        form: Option<&str>,
        authorization: Option<String>,
    ) -> Result<Answer, Failure> {
        let options = &self.inner.options;
        let mut headers: Vec<(&'static str, String)> = vec![("accept", "application/json".into())];
        if form.is_some() {
            headers.push(("content-type", "application/x-www-form-urlencoded".into()));
        }
        let secret = form.is_some() || authorization.is_some();
        headers.extend(authorization.map(|value| ("authorization", value)));
        let (method, payload) = match form {
            Some(form) => (Method::POST, Payload::Bytes(form.as_bytes())),
            None => (Method::GET, Payload::None),
        };
        let mut backoff = Backoff::new(options.backoff, options.retries);
        let mut url = url;
        let mut redirects = 0;
        loop {
            let result = self
                .inner
                .connections
                .exchange(&method, &url, &headers, payload);
            let wait = match result {
                Ok(answer) if is_transient(answer.status) => {
                    match backoff.next(asked_to_wait(&answer)) {
                        Some(wait) => wait,
                        None => return Ok(answer),
                    }
                }
                Ok(answer) if (300..400).contains(&answer.status) => {
                    let target = answer
                        .header("location")
                        .and_then(|l| url.join(l).ok())
                        .ok_or_else(|| {
                            Failure::Protocol("the token server redirects to nowhere".into())
                        })?;
                    let refused = |reason| Failure::RedirectRefused {
                        target: display_url(&target),
                        reason,
                    };
                    origin::check_redirect(&url, &target).map_err(refused)?;
                    if secret && !origin::same_origin(&url, &target) {
                        return Err(refused("credentials would go to another server"));
                    }
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(refused("there are too many redirects"));
                    }
                    drop(answer.read_some());
                    url = target;
                    continue;
                }
                Ok(answer) => return Ok(answer),
                Err(broken) if broken.is_transient() => match backoff.next(None) {
                    Some(wait) => wait,
                    None => return Err(broken.into_failure()),
                },
                Err(broken) => return Err(broken.into_failure()),
            };
            self.pause(wait)?;
        }
    }
}

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

/// A token goes into a header: it must be one word of visible ASCII.
fn check_token(token: &str) -> Result<(), Failure> {
    let fine = !token.is_empty()
        && token.len() <= MAX_TOKEN
        && token.bytes().all(|b| b.is_ascii_graphic());
    if fine {
        Ok(())
    } else {
        Err(Failure::Protocol(
            "the token is empty, too long or has characters that are not allowed".into(),
        ))
    }
}

fn read_token(body: &[u8]) -> Result<Token, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        refresh_token: Option<String>,
        #[serde(default)]
        expires_in: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| {
        Failure::Protocol("the token server's answer is not the JSON it should be".into())
    })?;
    let nonempty = |t: Option<String>| t.filter(|t| !t.is_empty());
    let token = nonempty(answer.token)
        .or(nonempty(answer.access_token))
        .ok_or_else(|| Failure::Protocol("the token server's answer has no token".into()))?;
    check_token(&token)?;
    let seconds = answer
        .expires_in
        .and_then(|v| v.as_u64())
        .unwrap_or(MIN_VALIDITY)
        .clamp(MIN_VALIDITY, MAX_VALIDITY);
    Ok(Token {
        header: format!("Bearer {token}"),
        until: Instant::now() + Duration::from_secs(seconds) - MARGIN,
        refresh: nonempty(answer.refresh_token),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_answers() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some(("Bearer a", 50))),
            (
                r#"{"access_token":"b","expires_in":300}"#,
                Some(("Bearer b", 290)),
            ),
            (
                r#"{"token":"a","access_token":"b","expires_in":-1}"#,
                Some(("Bearer a", 50)),
            ),
            (r#"{"token":"a","expires_in":1e18}"#, Some(("Bearer a", 50))),
            (
                r#"{"token":"a","expires_in":999999999999}"#,
                Some(("Bearer a", 86390)),
            ),
            (
                r#"{"token":"a","expires_in":"soon"}"#,
                Some(("Bearer a", 50)),
            ),
            (r#"{"token":"a\r\nX: y"}"#, None),
            (r#"{"token":""}"#, None),
            (r"{}", None),
            ("<html>", None),
        ] {
            let got = read_token(body.as_bytes()).ok().map(|t| {
                let left = t.until.saturating_duration_since(Instant::now());
                (t.header, left.as_secs() + 1)
            });
            assert_eq!(got, expected.map(|(t, s)| (t.to_owned(), s)), "{body}");
        }
    }

    #[test]
    fn scopes_come_from_the_request() {
        let access = Access {
            repository: "a/b".into(),
            actions: Actions::Push,
            from: Some("c".into()),
        };
        assert_eq!(
            access.scopes(),
            ["repository:a/b:pull,push", "repository:c:pull"]
        );
    }

    #[test]
    fn secrets_are_taken_out_of_messages() {
        let auth = HostAuth::default();
        auth.remember_secret("hunter22");
        auth.remember_secret("x");
        assert_eq!(auth.redact("bad hunter22 x".into()), "bad *** x");
    }
}
