//! The client: options, what is known about each registry, and sending one
//! request with credentials, redirects and retries.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::http::Method;
use url::Url;

use super::auth::{Access, HostAuth};
use super::certs::CertificateDirs;
use super::connection::{Answer, Broken, Connections, Payload};
use super::credentials::CredentialSource;
use super::error::{Failure, RegistryError, clean, error_message};
use super::manifest::Repository;
use super::origin;
use super::proxy::Proxies;
use super::registries::{Place, Registries};
use super::retry::{Backoff, is_transient, retry_after};
use crate::event::Cancel;
use crate::reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
use crate::roots::Roots;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;

/// How long to wait for what. There is no limit on a whole transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, and connecting with TLS.
    pub connect: Duration,
    /// From the end of a request to the head of its answer.
    pub header: Duration,
    /// Silence in the middle of a transfer.
    pub idle: Duration,
    /// From the end of an upload to its answer: the registry may have to move
    /// the whole blob before it can confirm.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            header: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            commit: Duration::from_secs(300),
        }
    }
}

/// What a client is made with.
#[derive(Clone)]
pub struct ClientOptions {
    /// `host[:port]` of registries whose certificate is not checked and that
    /// may be spoken to in plain http.
    pub insecure: BTreeSet<String>,
    /// Plain http is allowed with registries on this machine.
    pub plain_http: bool,
    /// All registries are insecure.
    pub insecure_all: bool,
    /// CA certificates for all registries.
    pub roots: Roots,
    /// How the program names itself.
    pub user_agent: String,
    /// Limits on waiting.
    pub timeouts: Timeouts,
    /// Further attempts after a failure that may pass.
    pub retries: u32,
    /// Pause before the second attempt; doubles with each further one.
    pub backoff: Duration,
    /// Where credentials come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// Hosts of token servers that may be given credentials although they
    /// are of another domain than the registry.
    pub trusted_realms: BTreeSet<String>,
    /// Certificates for single registries.
    pub certificates: CertificateDirs,
    /// Mirrors, remapped, insecure and blocked registries, short names.
    pub registries: Registries,
    /// Proxies.
    pub proxies: Proxies,
    /// Asks running operations to stop.
    pub cancel: Cancel,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            insecure: BTreeSet::new(),
            plain_http: true,
            insecure_all: false,
            roots: Roots::default(),
            user_agent: concat!("shiplap/", env!("CARGO_PKG_VERSION")).into(),
            timeouts: Timeouts::default(),
            retries: 5,
            backoff: Duration::from_millis(500),
            credentials: Arc::new(super::credentials::NoCredentials),
            trusted_realms: BTreeSet::new(),
            certificates: CertificateDirs::default(),
            registries: Registries::default(),
            proxies: Proxies::default(),
            cancel: Cancel::new(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("insecure", &self.insecure)
            .field("insecure_all", &self.insecure_all)
            .field("timeouts", &self.timeouts)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

/// Talks to registries; cheap to clone and safe to use from many threads.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

pub(super) struct Inner {
    pub(super) options: ClientOptions,
    pub(super) connections: Connections,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

/// What is known about one registry.
pub(super) struct Host {
    /// `host[:port]` as in references.
    pub(super) name: String,
    base: Mutex<Option<Url>>,
    pub(super) auth: HostAuth,
    /// Whether it has taken a blob from us.
    takes_uploads: AtomicBool,
}

impl Host {
    pub(super) fn took_upload(&self) {
        self.takes_uploads.store(true, Ordering::Relaxed);
    }

    pub(super) fn takes_uploads(&self) -> bool {
        self.takes_uploads.load(Ordering::Relaxed)
    }
}

/// One request to a registry.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
    pub(super) access: Access,
    /// Further attempts; those of the options when `None`.
    pub(super) retries: Option<u32>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: Url, access: Access) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            payload: Payload::None,
            access,
            retries: None,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

impl Client {
    /// A client; nothing is contacted yet.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                connections: Connections::new(options.clone()),
                options,
                hosts: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// The repository that `reference` is in: mirrors and the like as the
    /// configuration has them.
    pub fn repository(&self, reference: &Reference) -> Repository {
        let at = |place: &Place| {
            if place.insecure {
                self.inner.connections.allow_insecure(&place.registry);
            }
            self.place(&place.registry, &place.repository)
        };
        match self.inner.options.registries.route(reference) {
            Ok(route) => {
                let mirrors = route.mirrors.iter();
                let mirrors = mirrors.map(|(place, pull)| (at(place), *pull));
                at(&route.primary).with_mirrors(mirrors.collect())
            }
            Err(error) => self
                .place(reference.registry(), reference.repository())
                .with_refusal(error),
        }
    }

    fn place(&self, registry: &str, repository: &str) -> Repository {
        Repository::new(self.clone(), self.host(registry), repository)
    }

    /// What `name` may mean, the likeliest first; more than one only where
    /// the configuration says that registries are searched.
    ///
    /// # Errors
    /// When it is no reference.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, ReferenceError> {
        self.inner.options.registries.candidates(name)
    }

    fn host(&self, registry: &str) -> Arc<Host> {
        let mut hosts = self
            .inner
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(registry.to_owned()).or_insert_with(|| {
            Arc::new(Host {
                name: registry.to_owned(),
                base: Mutex::new(None),
                auth: HostAuth::default(),
                takes_uploads: AtomicBool::new(false),
            })
        }))
    }

    /// The URL below which the registry's API is, found out by asking where
    /// plain http is allowed.
    pub(super) fn base(&self, host: &Host) -> Result<Url, Failure> {
        let mut base = host.base.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = &*base {
            return Ok(base.clone());
        }
        let server = match host.name.as_str() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            other => other,
        };
        let make = |scheme: &str| {
            Url::parse(&format!("{scheme}://{server}/v2/"))
                .map_err(|e| Failure::Protocol(format!("{server} makes no URL: {e}")))
        };
        let found = if self.inner.connections.allows_http(&host.name) {
            self.probe(
                make("https")?,
                make("http")?,
                origin::is_loopback(&host.name),
            )?
        } else {
            make("https")?
        };
        *base = Some(found.clone());
        Ok(found)
    }

    /// Which of the two the registry speaks. No secret is sent. On this
    /// machine plain http is the rule and is asked for first; elsewhere https
    /// is, so that a server that can do it is used with it.
    fn probe(&self, https: Url, http: Url, http_first: bool) -> Result<Url, Failure> {
        let ask = |url: &Url| {
            self.inner
                .connections
                .exchange(&Method::GET, url, &[], Payload::None)
        };
        let order = if http_first {
            [&http, &https]
        } else {
            [&https, &http]
        };
        let mut backoff = Backoff::new(self.inner.options.backoff, self.inner.options.retries);
        loop {
            let mut first_problem = None;
            for url in order {
                match ask(url) {
                    // Servers that expect TLS answer plain requests with 400.
                    Ok(answer) if answer.status == 400 && url.scheme() == "http" => {
                        first_problem.get_or_insert(Failure::Status {
                            status: 400,
                            message: error_message(&answer.read_some()),
                        });
                    }
                    Ok(_) => return Ok(url.clone()),
                    // What we have ourselves makes no sense.
                    Err(problem @ Broken::Request(_)) => return Err(problem.into_failure()),
                    // It does speak TLS: its certificate is the caller's affair.
                    Err(Broken::Tls(_)) if url.scheme() == "https" => return Ok(url.clone()),
                    Err(problem) => {
                        first_problem.get_or_insert(problem.into_failure());
                    }
                }
            }
            match backoff.next(None) {
                Some(wait) => self.pause(wait)?,
                None => {
                    return Err(first_problem
                        .unwrap_or_else(|| Failure::Network("there is no answer".into())));
                }
            }
        }
    }

    /// Waits, in steps that notice a request to stop.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Failure> {
        let end = std::time::Instant::now() + time;
        loop {
            if self.inner.options.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Sends `call` until it gets an answer that is not a passing failure, or
    /// the attempts are used up. Any status is an `Ok`.
    pub(super) fn send(&self, host: &Host, call: &Call<'_>) -> Result<Answer, Failure> {
        let options = &self.inner.options;
        let retries = call.retries.unwrap_or(options.retries);
        let mut backoff = Backoff::new(options.backoff, retries);
        loop {
            match self.send_once(host, call) {
                Ok(answer) if is_transient(answer.status) => {
                    match backoff.next(asked_to_wait(&answer)) {
                        Some(wait) => self.pause(wait)?,
                        None => return Ok(answer),
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(Sending::Broken(broken)) if broken.is_transient() => match backoff.next(None) {
                    Some(wait) => self.pause(wait)?,
                    None => return Err(broken.into_failure()),
                },
                Err(problem) => return Err(problem.into_failure()),
            }
        }
    }

    /// Sends `call` once: with the credentials that are known, again with new
    /// ones if the registry asks, and on to where it redirects.
    pub(super) fn send_once(&self, host: &Host, call: &Call<'_>) -> Result<Answer, Sending> {
        if self.inner.options.cancel.is_cancelled() {
            return Err(Sending::Failed(Failure::Cancelled));
        }
        let base = self.base(host)?;
        let ours = |url: &Url| origin::same_origin(url, &base);
        if !ours(&call.url) {
            return self.follow(call, None);
        }
        let mut given = self.authorization(host, &base, &call.access)?;
        // A second time, because a token may be used up by others meanwhile.
        for _ in 0..2 {
            let answer = self.follow(call, given.as_deref())?;
            if answer.status != 401 || !ours(&answer.url) {
                return Ok(answer);
            }
            let challenges = answer.headers.get_all("www-authenticate").iter();
            let challenges = challenges.filter_map(|v| v.to_str().ok());
            host.auth.challenged(challenges, given.as_deref());
            let fresh = self.authorization(host, &base, &call.access)?;
            if fresh.is_none() || fresh == given {
                return Ok(answer);
            }
            // The connection can be used again only when it is read dry.
            drop(answer.read_some());
            given = fresh;
        }
        self.follow(call, given.as_deref())
    }

    /// One exchange, and the redirects that it leads to. `Authorization` goes
    /// along while the origin stays the same and is gone for good when not.
    fn follow(&self, call: &Call<'_>, authorization: Option<&str>) -> Result<Answer, Sending> {
        let safe = call.method == Method::GET || call.method == Method::HEAD;
        let mut url = call.url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = call.headers.clone();
            if let Some(value) = authorization {
                headers.push(("authorization", value.to_owned()));
            }
            let answer = self
                .inner
                .connections
                .exchange(&call.method, &url, &headers, call.payload)
                .map_err(Sending::Broken)?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let Some(location) = answer.header("location") else {
                return Ok(answer);
            };
            let refused = |target: &Url, reason| {
                Sending::Failed(Failure::RedirectRefused {
                    target: display_url(target),
                    reason,
                })
            };
            let target = url.join(location).map_err(|e| {
                Sending::Failed(Failure::Protocol(format!(
                    "the redirect's target is no URL: {e}"
                )))
            })?;
            origin::check_redirect(&url, &target).map_err(|reason| refused(&target, reason))?;
            let leaves = !origin::same_origin(&url, &target);
            if !safe && (leaves || !matches!(answer.status, 307 | 308)) {
                return Err(refused(&target, "the request would change the registry"));
            }
            if leaves {
                authorization = None;
            }
            drop(answer.read_some());
            url = target;
        }
        Err(Sending::Failed(Failure::RedirectRefused {
            target: display_url(&url),
            reason: "there are too many redirects",
        }))
    }

    /// The error for an answer that says no.
    pub(super) fn refusal(&self, host: &Host, answer: Answer) -> Failure {
        let status = answer.status;
        if let (401 | 403, Some(trouble)) = (status, host.auth.trouble()) {
            return trouble;
        }
        let message = host.auth.redact(error_message(&answer.read_some()));
        Failure::Status { status, message }
    }

    /// Asks `registry` whether it takes the credentials of this client;
    /// `false` when it lets everybody in.
    ///
    /// # Errors
    /// When it refuses them, or can't be reached.
    pub fn check_login(&self, registry: &str) -> Result<bool, RegistryError> {
        let host = self.host(registry);
        let op = Operation {
            what: format!("log in to {registry}"),
            host: &host,
            repository: "",
        };
        let ask = || {
            let base = self.base(&host)?;
            let call = Call::new(Method::GET, base, Access::login());
            let answer = self.send(&host, &call)?;
            match answer.status {
                200..=299 => Ok(host.auth.was_challenged()),
                _ => Err(self.refusal(&host, answer)),
            }
        };
        ask().map_err(|f| op.fail(f))
    }
}

/// Why a request has no answer.
pub(super) enum Sending {
    Broken(Broken),
    Failed(Failure),
}

impl From<Failure> for Sending {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Sending {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Broken(broken) => broken.into_failure(),
            Self::Failed(failure) => failure,
        }
    }
}

/// How long the registry wants us to wait.
pub(super) fn asked_to_wait(answer: &Answer) -> Option<Duration> {
    retry_after(answer.header("retry-after")?, SystemTime::now())
}

/// A URL for people: without query, which may hold a signature.
pub(super) fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that have no user name in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    clean(url.as_str())
}

/// Builds the errors of one operation.
pub(super) struct Operation<'a> {
    pub(super) what: String,
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
}

impl Operation<'_> {
    pub(super) fn fail(&self, failure: Failure) -> RegistryError {
        RegistryError {
            operation: self.what.clone(),
            registry: self.host.name.clone(),
            repository: self.repository.to_owned(),
            mirrors: Vec::new(),
            failure: Box::new(failure),
        }
    }
}
