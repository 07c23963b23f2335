//! Making HTTP requests: which agent (TLS, proxy) serves which server, and
//! one exchange at a time. Redirects, retries and credentials are the
//! caller's.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{self, HeaderMap, HeaderValue, Method};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, SendBody};
use url::Url;

use super::certs::Certificates;
use super::client::ClientOptions;
use super::error::{Failure, clean};
use super::origin;

/// The largest error body that is read, in bytes.
pub(super) const MAX_ERROR_BODY: u64 = 64 << 10;
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Opens what is to be sent, from its start, once for each attempt.
pub(super) type OpenBody<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>> + 'a);

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A stream of known size.
    Stream {
        size: u64,
        /// Whether the server is asked first if it would take it.
        ask_first: bool,
        open: OpenBody<'a>,
    },
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) url: Url,
    body: Box<dyn Read + Send>,
}

impl Answer {
    /// The value of a header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body.
    pub(super) fn into_body(self) -> Box<dyn Read + Send> {
        self.body
    }

    /// Reads the body into memory.
    ///
    /// # Errors
    /// When it is longer than `limit` bytes or the connection breaks.
    pub(super) fn read(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the answer is larger than {limit} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// The start of the body, for a message; never fails.
    pub(super) fn read_some(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A broken error body leaves us what came of it.
        let _ = self.body.take(MAX_ERROR_BODY).read_to_end(&mut bytes);
        bytes
    }
}

/// Why an exchange gave no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The network's fault; trying again may help.
    Network(String),
    /// Whoever answers speaks no TLS.
    NotTls(String),
    /// The certificate is not trusted, or the handshake failed.
    Tls(String),
    /// What was to be sent could not be read.
    Source(io::Error),
    /// The request itself is impossible.
    Request(String),
}

impl Broken {
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Network(_))
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Network(m) => Failure::Network(m),
            Self::NotTls(m) | Self::Tls(m) => Failure::Tls(m),
            Self::Source(e) => Failure::Network(clean(&e.to_string())),
            Self::Request(m) => Failure::Protocol(m),
        }
    }
}

/// The agents of a client, made when first needed.
pub(super) struct Connections {
    options: ClientOptions,
    agents: Mutex<HashMap<AgentKey, Agent>>,
    /// `host[:port]` of insecure registries that came up on the way.
    insecure: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AgentKey {
    tls: bool,
    verify: bool,
    proxy: Option<String>,
    /// Directory with certificates for these connections.
    certificates: Option<PathBuf>,
}

impl Connections {
    pub(super) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            agents: Mutex::new(HashMap::new()),
            insecure: Mutex::default(),
        }
    }

    /// Sends one request and waits for the head of the answer.
    pub(super) fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(&'static str, String)],
        payload: Payload<'_>,
    ) -> Result<Answer, Broken> {
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(url.as_str());
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Broken::Request(format!(
                    "the header {name} has characters that are not allowed"
                ))
            })?;
            value.set_sensitive(*name == "authorization");
            request = request.header(*name, value);
        }
        let agent = self.agent(url).map_err(Broken::Request)?;
        let built = |e: http::Error| Broken::Request(clean(&e.to_string()));
        let result = match payload {
            Payload::None
                if *method == Method::GET
                    || *method == Method::HEAD
                    || *method == Method::DELETE =>
            {
                agent.run(request.body(()).map_err(built)?)
            }
            Payload::None => agent.run(request.body(&[][..]).map_err(built)?),
            Payload::Bytes(bytes) => agent.run(request.body(bytes).map_err(built)?),
            Payload::Stream {
                size,
                ask_first,
                open,
            } => {
                let reader = open().map_err(Broken::Source)?;
                let mut reader = Outgoing {
                    inner: reader,
                    left: size,
                    failed: None,
                };
                request = request.header("content-length", size);
                if ask_first {
                    request = request.header("expect", "100-continue");
                }
                let body = SendBody::from_reader(&mut reader);
                let request = request.body(body).map_err(built)?;
                // The time that the registry takes to store a large blob
                // counts as waiting for the answer.
                let patience = self.options.timeouts.commit;
                let request = agent
                    .configure_request(request)
                    .timeout_recv_response(Some(patience))
                    .timeout_per_read(Some(patience))
                    .build();
                let result = agent.run(request);
                if let Some(error) = reader.failed {
                    return Err(Broken::Source(error));
                }
                result
            }
        };
        let response = result.map_err(|e| broken(e, url))?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            url: url.clone(),
            body: Box::new(body.into_reader()),
        })
    }

    fn agent(&self, url: &Url) -> Result<Agent, String> {
        let key = AgentKey {
            tls: url.scheme() == "https",
            verify: !self.is_insecure_url(url),
            proxy: self.options.proxies.for_url(url).map(ToOwned::to_owned),
            certificates: match url.scheme() {
                "https" => self.options.certificates.find(url),
                _ => None,
            },
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let agent = self.make_agent(&key)?;
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn make_agent(&self, key: &AgentKey) -> Result<Agent, String> {
        let times = &self.options.timeouts;
        let proxy = match &key.proxy {
            None => None,
            Some(proxy) => Some(
                // The URL may hold a password: it stays out of the message.
                ureq::Proxy::new(proxy).map_err(|_| "the proxy's URL is not valid".to_owned())?,
            ),
        };
        let own = match &key.certificates {
            None => Certificates::default(),
            Some(dir) => Certificates::read(dir)?,
        };
        let roots = match key.tls || key.proxy.is_some() {
            true => self.options.roots.with(own.roots),
            false => Ok(RootCerts::WebPki),
        };
        let roots = roots.map_err(|e| e.to_string())?;
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .client_cert(own.client)
            .disable_verification(!key.verify)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls)
            .user_agent(self.options.user_agent.as_str())
            .accept_encoding("identity")
            .timeout_global(None)
            .timeout_resolve(Some(times.connect))
            .timeout_connect(Some(times.connect))
            .timeout_send_request(Some(times.header))
            .timeout_recv_response(Some(times.header))
            .timeout_per_read(Some(times.idle))
            .timeout_per_write(Some(times.idle))
            .max_response_header_size(MAX_HEAD)
            .max_idle_connections(64)
            .max_idle_connections_per_host(16)
            .max_idle_age(Duration::from_secs(15))
            .build();
        Ok(Agent::new_with_config(config))
    }

    /// Notes that `registry` is insecure.
    pub(super) fn allow_insecure(&self, registry: &str) {
        let mut insecure = self.insecure.lock().unwrap_or_else(PoisonError::into_inner);
        insecure.insert(registry.to_owned());
    }

    fn is_insecure(&self, registry: &str) -> bool {
        let noted = self.insecure.lock().unwrap_or_else(PoisonError::into_inner);
        self.options.insecure_all
            || self.options.insecure.contains(registry)
            || noted.contains(registry)
    }

    fn is_insecure_url(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let with_port = match url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // `host` alone means its default port.
        self.is_insecure(&with_port) || url.port().is_none() && self.is_insecure(host)
    }

    /// Whether plain http may be tried with `registry`.
    pub(super) fn allows_http(&self, registry: &str) -> bool {
        self.is_insecure(registry) || self.options.plain_http && origin::is_loopback(registry)
    }
}

/// A body under way: ends exactly at its size and remembers its own failure,
/// which the HTTP library would report as one of the connection.
struct Outgoing<'a> {
    inner: Box<dyn Read + Send + 'a>,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buf.is_empty() {
            return Ok(0);
        }
        let limit = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let result = loop {
            match self.inner.read(&mut buf[..limit]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted && e.get_ref().is_none() => {}
                other => break other,
            }
        };
        let problem = match result {
            Ok(0) => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends {} bytes early", self.left),
            ),
            Ok(n) => {
                self.left -= n as u64;
                if self.left == 0 {
                    // Let a verifying reader have its say before the last
                    // bytes leave: without them the registry has nothing.
                    let mut end = [0];
                    match self.inner.read(&mut end) {
                        Ok(0) => return Ok(n),
                        Ok(_) => io::Error::new(
                            io::ErrorKind::InvalidData,
                            "it is longer than it should be",
                        ),
                        Err(e) => e,
                    }
                } else {
                    return Ok(n);
                }
            }
            Err(e) => e,
        };
        let kind = problem.kind();
        self.failed = Some(problem);
        Err(kind.into())
    }
}

fn broken(error: ureq::Error, url: &Url) -> Broken {
    use ureq::Error as E;
    let host = url.host_str().unwrap_or_default();
    let at = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    match error {
        E::Io(e) => from_io(&e, &at),
        E::Timeout(ureq::Timeout::Connect) => {
            Broken::Network(format!("{at} does not accept a connection in time"))
        }
        E::Timeout(_) => Broken::Network(format!("{at} was silent for too long")),
        E::HostNotFound => Broken::Network(format!("there is no host {host}")),
        E::ConnectionFailed => Broken::Network(format!("no connection to {at}")),
        E::ConnectProxyFailed(m) => {
            Broken::Network(format!("the proxy does not connect to {at}: {}", clean(&m)))
        }
        E::Rustls(e) => from_tls(&e),
        E::Tls(m) => Broken::Tls(clean(m)),
        E::LargeResponseHeader(..) => {
            Broken::Request(format!("the head of the answer of {at} is too large"))
        }
        E::Protocol(e) => Broken::Network(format!(
            "{at} does not speak HTTP: {}",
            clean(&e.to_string())
        )),
        other => Broken::Request(clean(&other.to_string())),
    }
}

fn from_io(error: &io::Error, at: &str) -> Broken {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    if let Some(tls) = inner {
        return from_tls(tls);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Broken::Network(format!("{at} refuses the connection")),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Broken::Network(format!("{at} was silent for too long"))
        }
        _ => Broken::Network(format!(
            "the connection to {at} broke: {}",
            clean(&error.to_string())
        )),
    }
}

fn from_tls(error: &rustls::Error) -> Broken {
    let text = clean(&error.to_string());
    match error {
        rustls::Error::InvalidMessage(_) => {
            Broken::NotTls(format!("the server speaks no TLS ({text})"))
        }
        _ => Broken::Tls(text),
    }
}
