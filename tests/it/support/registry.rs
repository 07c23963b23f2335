//! A registry in the test process that can misbehave on demand.
//!
//! It speaks enough of the distribution-spec for pulling and pushing, logs
//! every request with its headers, and plays scripted faults: each [`Rule`]
//! names the requests it is for and how often it strikes.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test binary uses a part"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use shiplap::digest::Digest;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Logged {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: usize,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers this instead.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Closes the connection without an answer.
    Close,
    /// Resets the connection before the request's body is read.
    ResetEarly,
    /// Does the work, then closes without an answer.
    WorkThenClose,
    /// Does the work, then answers this.
    WorkThen(u16),
    /// Sends so many bytes of the answer's body and closes.
    Cut(usize),
    /// Sends so many bytes of the answer's body and goes silent.
    Stall(usize),
    /// Flips a bit in the middle of the body.
    Corrupt,
    /// Claims another content length and closes at the end of the body.
    Length(i64),
    /// Sends the body and then bytes without end.
    Endless,
    /// Overrides or removes (`None`) a header of the answer.
    Header(&'static str, Option<String>),
    /// Answers ranged requests with the whole.
    IgnoreRange,
    /// Answers ranged requests with another range.
    OtherRange,
    /// Redirects.
    Redirect(u16, String),
    /// Forgets all upload sessions and says so.
    LoseSessions,
    /// Keeps so many bytes of an upload's body and resets the connection.
    Keep(usize),
    /// Keeps so many bytes of an upload's body and answers 202.
    Accept(usize),
    /// Says that it stored a manifest, and does not have it.
    Forget,
    /// Waits before it answers.
    Slow(Duration),
}

/// A fault for the `times` requests after the first `skip` whose method is
/// `method` and whose target has `part` in it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub method: &'static str,
    pub part: String,
    pub skip: usize,
    pub times: usize,
    pub fault: Fault,
}

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    None,
    /// Whoever knows the name and the password.
    Basic(String, String),
    /// Whoever has a token of the token server at this URL.
    Bearer(String),
}

#[derive(Default)]
pub struct State {
    pub blobs: HashMap<String, HashMap<String, Vec<u8>>>,
    /// repository, then tag or digest.
    pub manifests: HashMap<String, HashMap<String, (String, Vec<u8>)>>,
    pub uploads: HashSet<String>,
    /// What interrupted uploads have sent so far.
    pub partial: HashMap<String, Vec<u8>>,
    /// Whether there is a referrers API.
    pub referrers: bool,
    /// Whether the token server knows no GET.
    pub post_only: bool,
    /// The refresh token that is good, where each use makes a new one.
    pub refresh: Option<String>,
    pub log: Vec<Logged>,
    pub rules: Vec<Rule>,
    pub auth: Auth,
    /// Tokens that are good, and how many more requests they are good for.
    pub tokens: HashMap<String, usize>,
    /// Uses of a new token.
    pub token_uses: usize,
    /// What the token server wants to see, when it wants something.
    pub token_login: Option<(String, String)>,
    /// Where issued tokens go: the registry that takes them.
    pub issue_to: Option<Arc<Mutex<State>>>,
    /// Tokens the token server gave.
    pub issued: usize,
    pub no_mount: bool,
    next: usize,
}

/// A running registry; stops when it is dropped.
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    pub fn start_on(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            token_uses: usize::MAX,
            ..State::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away is part of the game.
                    let _ = serve(&stream, &state);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self {
            address,
            state,
            stop,
        }
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn share(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.state)
    }

    /// Lets `fault` strike.
    pub fn fault(&self, method: &'static str, part: &str, skip: usize, times: usize, fault: Fault) {
        self.state().rules.push(Rule {
            method,
            part: part.into(),
            skip,
            times,
            fault,
        });
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        let blobs = state.blobs.entry(repository.into()).or_default();
        blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        let manifests = state.manifests.entry(repository.into()).or_default();
        manifests.insert(tag.into(), (kind.into(), bytes.to_vec()));
        manifests.insert(digest.to_string(), (kind.into(), bytes.to_vec()));
        digest
    }

    /// The requests so far, the probe for the protocol left out.
    pub fn log(&self) -> Vec<Logged> {
        let state = self.state();
        let relevant = state.log.iter().filter(|l| l.target != "/v2/");
        relevant.cloned().collect()
    }

    /// How many requests there were with this method and `part` in the target.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let log = self.log();
        log.iter()
            .filter(|l| l.method == method && l.target.contains(part))
            .count()
    }

    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// Whether any request carried a secret.
    pub fn saw_secret(&self) -> bool {
        let state = self.state();
        state.log.iter().any(|l| {
            ["authorization", "cookie", "proxy-authorization"]
                .iter()
                .any(|h| l.headers.contains_key(*h))
        })
    }

    /// Whether every manifest's blobs and children are there.
    pub fn is_consistent(&self) -> bool {
        let state = self.state();
        state.manifests.iter().all(|(repository, manifests)| {
            manifests.values().all(|(_, bytes)| {
                let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
                let has_blob = |d: &serde_json::Value| {
                    let digest = d["digest"].as_str().unwrap_or_default();
                    state
                        .blobs
                        .get(repository)
                        .is_some_and(|b| b.contains_key(digest))
                };
                let config = &value["config"];
                (config.is_null() || has_blob(config))
                    && list("layers").iter().all(has_blob)
                    && list("manifests")
                        .iter()
                        .all(|d| manifests.contains_key(d["digest"].as_str().unwrap_or_default()))
            })
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }
    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
    fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": "as scripted"}]});
        Self::new(status).body(body.to_string())
    }
}

#[allow(clippy::too_many_lines, reason = "one table of routes")]
fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target), Some(version)) =
            (words.next(), words.next(), words.next())
        else {
            return Ok(());
        };
        if !version.starts_with("HTTP/") {
            return Ok(());
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let fault = strike(&mut state.lock().unwrap(), &method, &target);
        let length: usize = headers
            .get("content-length")
            .and_then(|l| l.parse().ok())
            .unwrap_or(0);
        let mut logged = Logged {
            method: method.clone(),
            target: target.clone(),
            headers: headers.clone(),
            body: 0,
        };
        match &fault {
            Some(Fault::ResetEarly) => {
                state.lock().unwrap().log.push(logged);
                return Ok(());
            }
            // An early answer to a request that waits for permission.
            Some(Fault::Answer(status, more, body)) if headers.contains_key("expect") => {
                state.lock().unwrap().log.push(logged);
                let mut answer = Answer::new(*status).body(body.clone());
                answer.headers.clone_from(more);
                send(&mut writer, &method, answer, None)?;
                return Ok(());
            }
            _ => {}
        }
        let allowed = may_enter(&mut state.lock().unwrap(), &target, &headers);
        if headers.contains_key("expect") {
            if let Err(answer) = allowed {
                state.lock().unwrap().log.push(logged);
                send(
                    &mut writer,
                    &method,
                    answer.with("connection", "close"),
                    None,
                )?;
                return Ok(());
            }
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let Some(Fault::Keep(n) | Fault::Accept(n)) = &fault {
            let mut part = vec![0; length.min(*n)];
            reader.read_exact(&mut part)?;
            logged.body = part.len();
            let mut state = state.lock().unwrap();
            state.log.push(logged);
            let session = session_of(&target).to_owned();
            let kept = state.partial.entry(session).or_default();
            kept.extend(part);
            let range = range_of(kept);
            drop(state);
            if matches!(fault, Some(Fault::Accept(_))) {
                io::copy(
                    &mut (&mut reader).take((length - length.min(*n)) as u64),
                    &mut io::sink(),
                )?;
                let answer = Answer::new(202)
                    .with("location", target)
                    .with("range", range);
                send(&mut writer, &method, answer, None)?;
                continue;
            }
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        logged.body = length;
        state.lock().unwrap().log.push(logged);
        match &fault {
            Some(Fault::Close) => return Ok(()),
            Some(Fault::Slow(time)) => std::thread::sleep(*time),
            _ => {}
        }
        let request = Request {
            method: &method,
            target: &target,
            headers: &headers,
            body,
            range: headers.get("range").cloned(),
            other: matches!(fault, Some(Fault::OtherRange)),
        };
        let answer = react(&mut state.lock().unwrap(), fault.as_ref(), allowed, request);
        match &fault {
            Some(Fault::WorkThenClose) => return Ok(()),
            Some(Fault::WorkThen(status)) => {
                send(
                    &mut writer,
                    &method,
                    Answer::error(*status, "SCRIPTED"),
                    None,
                )?;
            }
            _ => send(&mut writer, &method, answer, fault.as_ref())?,
        }
        if matches!(
            fault,
            Some(Fault::Cut(_) | Fault::Stall(_) | Fault::Length(_) | Fault::Endless)
        ) {
            return Ok(());
        }
    }
}

/// The session that an upload's target is about.
fn session_of(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

fn range_of(kept: &[u8]) -> String {
    format!("0-{}", kept.len().saturating_sub(1))
}

/// The answer to a request, faults that replace it included.
fn react(
    state: &mut State,
    fault: Option<&Fault>,
    allowed: Result<(), Answer>,
    mut request: Request<'_>,
) -> Answer {
    match (fault, allowed) {
        (Some(Fault::Answer(status, more, body)), _) => {
            let mut answer = Answer::new(*status).body(body.clone());
            answer.headers.clone_from(more);
            answer
        }
        (Some(Fault::Redirect(status, to)), _) => Answer::new(*status).with("location", to.clone()),
        (Some(Fault::LoseSessions), _) => {
            state.uploads.clear();
            Answer::error(404, "BLOB_UPLOAD_UNKNOWN")
        }
        (_, Err(answer)) => answer,
        (Some(Fault::Forget), Ok(())) => {
            let before = state.manifests.clone();
            let answer = answer(state, request);
            state.manifests = before;
            answer
        }
        (fault, Ok(())) => {
            if matches!(fault, Some(Fault::IgnoreRange)) {
                request.range = None;
            }
            answer(state, request)
        }
    }
}

fn strike(state: &mut State, method: &str, target: &str) -> Option<Fault> {
    for rule in &mut state.rules {
        let matches = rule.times > 0
            && (rule.method == "*" || rule.method == method)
            && target.contains(&rule.part)
            && target != "/v2/";
        if !matches {
            continue;
        }
        if rule.skip > 0 {
            rule.skip -= 1;
            continue;
        }
        rule.times -= 1;
        return Some(rule.fault.clone());
    }
    None
}

fn send(
    writer: &mut TcpStream,
    method: &str,
    mut answer: Answer,
    fault: Option<&Fault>,
) -> io::Result<()> {
    let mut length = answer.body.len() as i64;
    if method == "HEAD" {
        if let Some((_, value)) = answer.headers.iter().find(|(n, _)| n == "content-length") {
            length = value.parse().unwrap();
        }
        answer.headers.retain(|(n, _)| n != "content-length");
    }
    let mut body = answer.body;
    let mut stop = body.len();
    match fault {
        Some(Fault::Corrupt) => {
            let middle = body.len() / 2;
            if let Some(byte) = body.get_mut(middle) {
                *byte ^= 1;
            }
        }
        Some(Fault::Length(by)) => {
            answer.headers.retain(|(n, _)| n != "content-length");
            length += by;
        }
        Some(Fault::Cut(n) | Fault::Stall(n)) => stop = stop.min(*n),
        Some(Fault::Endless) => {
            answer.headers.retain(|(n, _)| n != "content-length");
            length = i64::MAX;
        }
        Some(Fault::Header(name, value)) => {
            answer.headers.retain(|(n, _)| n != name);
            answer
                .headers
                .extend(value.clone().map(|v| ((*name).to_owned(), v)));
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    if !answer.headers.iter().any(|(n, _)| n == "content-length") {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    writer.write_all(&body[..stop])?;
    match fault {
        Some(Fault::Stall(_)) => std::thread::sleep(Duration::from_secs(10)),
        Some(Fault::Endless) => loop {
            writer.write_all(&[0; 65536])?;
        },
        _ => {}
    }
    Ok(())
}

fn may_enter(
    state: &mut State,
    target: &str,
    headers: &BTreeMap<String, String>,
) -> Result<(), Answer> {
    if target.starts_with("/token") {
        return Ok(());
    }
    let given = headers
        .get("authorization")
        .map(String::as_str)
        .unwrap_or_default();
    match state.auth.clone() {
        Auth::None => Ok(()),
        Auth::Basic(user, password) => {
            let wanted =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            if given == format!("Basic {wanted}") {
                return Ok(());
            }
            Err(Answer::error(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"test\""))
        }
        Auth::Bearer(realm) => {
            let token = given.strip_prefix("Bearer ").unwrap_or_default();
            if let Some(uses) = state.tokens.get_mut(token)
                && *uses > 0
            {
                *uses -= 1;
                return Ok(());
            }
            let challenge = format!(
                "Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:other:push\""
            );
            Err(Answer::error(401, "UNAUTHORIZED").with("www-authenticate", challenge))
        }
    }
}

struct Request<'a> {
    method: &'a str,
    target: &'a str,
    headers: &'a BTreeMap<String, String>,
    body: Vec<u8>,
    range: Option<String>,
    other: bool,
}

fn answer(state: &mut State, request: Request<'_>) -> Answer {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((request.target, ""));
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    if path == "/token" {
        return token(state, &request);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Answer::error(404, "NO_SUCH_PATH");
    };
    if rest.is_empty() {
        return Answer::new(200).body("{}");
    }
    if let Some((name, reference)) = rest.split_once("/manifests/") {
        return manifest(state, &request, name, reference);
    }
    if let Some((name, session)) = rest.split_once("/blobs/uploads/") {
        return upload(state, request, name, session, &query);
    }
    if let Some((name, digest)) = rest.split_once("/blobs/") {
        let Some(bytes) = state.blobs.get(name).and_then(|b| b.get(digest)) else {
            return Answer::error(404, "BLOB_UNKNOWN");
        };
        return blob(&request, digest, bytes);
    }
    if let Some((name, subject)) = rest.split_once("/referrers/")
        && state.referrers
    {
        return referrers(state, name, subject);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        let manifests = state.manifests.get(name);
        let mut tags: Vec<&String> = manifests
            .map(|m| m.keys().filter(|k| !k.contains(':')).collect())
            .unwrap_or_default();
        tags.sort();
        let after = query.get("last").map(String::as_str).unwrap_or_default();
        let page: Vec<&String> = tags
            .iter()
            .copied()
            .filter(|t| t.as_str() > after)
            .take(2)
            .collect();
        let body = serde_json::json!({"name": name, "tags": page}).to_string();
        let mut answer = Answer::new(200).body(body);
        if let Some(last) = page.last()
            && tags.last() != Some(last)
        {
            answer = answer.with(
                "link",
                format!("</v2/{name}/tags/list?last={last}>; rel=\"next\""),
            );
        }
        return answer;
    }
    Answer::error(404, "NO_SUCH_PATH")
}

fn referrers(state: &State, name: &str, subject: &str) -> Answer {
    let found = state.manifests.get(name).into_iter().flatten();
    let found = found.filter(|(key, _)| key.contains(':'));
    let found = found.filter_map(|(digest, (kind, bytes))| {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        (value["subject"]["digest"] == subject).then(|| {
            serde_json::json!({
                "mediaType": kind, "digest": digest, "size": bytes.len(),
                "artifactType": value["artifactType"], "annotations": value["annotations"],
            })
        })
    });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind, "manifests": found.collect::<Vec<_>>(),
    });
    Answer::new(200)
        .with("content-type", kind)
        .body(index.to_string())
}

fn token(state: &mut State, request: &Request<'_>) -> Answer {
    if state.post_only && request.method == "GET" {
        return Answer::error(405, "UNSUPPORTED");
    }
    if let Some((user, password)) = &state.token_login {
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let form: HashMap<String, String> = url::form_urlencoded::parse(&request.body)
            .into_owned()
            .collect();
        let by_basic = request.headers.get("authorization") == Some(&format!("Basic {basic}"));
        let by_refresh = request.method == "POST"
            && form.get("refresh_token") == Some(state.refresh.as_ref().unwrap_or(password));
        let by_password = request.method == "POST"
            && form.get("grant_type").is_some_and(|g| g == "password")
            && form.get("username") == Some(user)
            && form.get("password") == Some(password);
        if !by_basic && !by_refresh && !by_password {
            return Answer::new(401).body(r#"{"details":"incorrect username or password"}"#);
        }
    }
    state.issued += 1;
    let token = format!("token-{}-{}", state.issued, std::process::id());
    let uses = state.token_uses;
    match &state.issue_to {
        Some(other) => {
            other.lock().unwrap().tokens.insert(token.clone(), uses);
        }
        None => {
            state.tokens.insert(token.clone(), uses);
        }
    }
    let mut answer = serde_json::json!({"token": token, "expires_in": 300});
    if let Some(refresh) = &mut state.refresh {
        *refresh = format!("refresh-{}", state.issued);
        answer["refresh_token"] = refresh.as_str().into();
    }
    Answer::new(200).body(answer.to_string())
}

fn manifest(state: &mut State, request: &Request<'_>, name: &str, reference: &str) -> Answer {
    let manifests = state.manifests.entry(name.into()).or_default();
    match request.method {
        "PUT" => {
            let digest = Digest::of(&request.body);
            let kind = request
                .headers
                .get("content-type")
                .cloned()
                .unwrap_or_default();
            let entry = (kind, request.body.clone());
            manifests.insert(digest.to_string(), entry.clone());
            manifests.insert(reference.into(), entry);
            let answer = Answer::new(201).with("docker-content-digest", digest.to_string());
            let value: serde_json::Value =
                serde_json::from_slice(&request.body).unwrap_or_default();
            match value["subject"]["digest"].as_str() {
                Some(subject) if state.referrers => answer.with("oci-subject", subject),
                _ => answer,
            }
        }
        "DELETE" => match manifests.remove(reference) {
            Some(_) => Answer::new(202),
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        },
        _ => match manifests.get(reference) {
            Some((kind, bytes)) => Answer::new(200)
                .with("content-type", kind.clone())
                .with("docker-content-digest", Digest::of(bytes).to_string())
                .with("content-length", bytes.len().to_string())
                .body(bytes.clone()),
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        },
    }
}

fn blob(request: &Request<'_>, digest: &str, bytes: &[u8]) -> Answer {
    let start = request
        .range
        .as_deref()
        .and_then(|r| r.strip_prefix("bytes="))
        .and_then(|r| r.strip_suffix('-'))
        .and_then(|r| r.parse::<usize>().ok());
    let whole = Answer::new(200).with("docker-content-digest", digest);
    match start {
        Some(start) if start >= bytes.len() => Answer::error(416, "RANGE"),
        Some(start) => {
            let start = if request.other { start / 2 } else { start };
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206)
                .with("content-range", range)
                .body(&bytes[start..])
        }
        None => whole
            .with("content-length", bytes.len().to_string())
            .body(bytes),
    }
}

fn upload(
    state: &mut State,
    request: Request<'_>,
    name: &str,
    session: &str,
    query: &HashMap<String, String>,
) -> Answer {
    match request.method {
        "POST" => {
            if let (Some(digest), Some(from), false) =
                (query.get("mount"), query.get("from"), state.no_mount)
                && let Some(bytes) = state.blobs.get(from).and_then(|b| b.get(digest)).cloned()
            {
                let blobs = state.blobs.entry(name.into()).or_default();
                blobs.insert(digest.clone(), bytes);
                return Answer::new(201).with("docker-content-digest", digest.clone());
            }
            state.next += 1;
            let id = format!("session-{}", state.next);
            state.uploads.insert(id.clone());
            Answer::new(202).with(
                "location",
                format!("/v2/{name}/blobs/uploads/{id}?_state=x%3D"),
            )
        }
        "GET" => match state.partial.get(session) {
            _ if !state.uploads.contains(session) => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
            kept => Answer::new(204)
                .with(
                    "location",
                    format!("/v2/{name}/blobs/uploads/{session}?_state=y"),
                )
                .with("range", range_of(kept.map_or(&[], Vec::as_slice))),
        },
        "PATCH" => {
            if !state.uploads.contains(session) {
                return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
            }
            let from = request.headers.get("content-range");
            let from: Option<usize> = from.and_then(|r| r.split('-').next()?.parse().ok());
            let kept = state.partial.entry(session.into()).or_default();
            if from != Some(kept.len()) {
                return Answer::error(416, "RANGE_INVALID");
            }
            kept.extend(request.body);
            let range = range_of(kept);
            Answer::new(202)
                .with(
                    "location",
                    format!("/v2/{name}/blobs/uploads/{session}?_state=z"),
                )
                .with("range", range)
        }
        "DELETE" => {
            state.uploads.remove(session);
            state.partial.remove(session);
            Answer::new(204)
        }
        "PUT" => {
            if !state.uploads.contains(session) {
                return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
            }
            let mut request = request;
            let kept = state.partial.get(session).cloned().unwrap_or_default();
            let from = request.headers.get("content-range");
            let from = from.and_then(|r| r.split('-').next()?.parse().ok());
            let complete = request.body.is_empty() && !kept.is_empty();
            if from.unwrap_or(0) != kept.len() && !complete {
                return Answer::error(416, "RANGE_INVALID");
            }
            state.uploads.remove(session);
            state.partial.remove(session);
            request.body.splice(0..0, kept);
            let digest = Digest::of(&request.body).to_string();
            if query.get("digest") != Some(&digest) {
                return Answer::error(400, "DIGEST_INVALID");
            }
            let blobs = state.blobs.entry(name.into()).or_default();
            blobs.insert(digest.clone(), request.body);
            Answer::new(201).with("docker-content-digest", digest)
        }
        _ => Answer::error(405, "UNSUPPORTED"),
    }
}
