use super::*;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Answers each request by its path and keeps what was asked.
fn serve(answer: fn(&str, &str) -> String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let own = base.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut request).is_ok_and(|n| n > 2) {}
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            log.lock().unwrap().push(request.to_lowercase());
            let _ = stream.write_all(answer(&path, &own).as_bytes());
        }
    });
    (base, seen)
}

fn body(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn to(location: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n"
    )
}

fn request(url: &str) -> Request<'_> {
    Request {
        url,
        checksum: None,
        known: None,
        authorization: None,
        limit: 1 << 20,
    }
}

fn run(request: &Request<'_>) -> Result<Fetched, HttpError> {
    let dir = tempfile::tempdir().unwrap();
    fetch(
        &Agents::new(|_| None, Roots::default()),
        request,
        dir.path(),
        &Cancel::new(),
    )
}

#[test]
fn downloads() {
    let (base, seen) = serve(|path, _| match path {
        "/a/file.txt?x=1" => body(
            "ETag: \"v1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: Text/Plain; x=y\r\n",
            "hello",
        ),
        "/garbage" => body("Last-Modified: yesterday\r\n", ""),
        "/same" => "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".into(),
        "/cut" => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhello".into(),
        _ => "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
    });
    let url = format!("{}/a/file.txt?x=1", base.replace("://", "://me:se%20cret@"));
    let right = Digest::of(b"hello");
    let Fetched::File(file) = run(&Request {
        checksum: Some(&right),
        ..request(&url)
    })
    .unwrap() else {
        panic!("a file");
    };
    assert_eq!((file.name.as_str(), file.size), ("file.txt", 5));
    assert_eq!((file.digest, file.mtime.secs), (right, 784_111_777));
    assert_eq!(file.validators.etag.as_deref(), Some("\"v1\""));
    assert_eq!(file.media_type.as_deref(), Some("text/plain"));
    // me:se cret
    assert!(seen.lock().unwrap()[0].contains("authorization: basic bwu6c2ugy3jlda=="));

    let wrong = Digest::of(b"other");
    let error = run(&Request {
        checksum: Some(&wrong),
        ..request(&url)
    })
    .unwrap_err();
    assert!(matches!(error, HttpError::Checksum { .. }) && !error.to_string().contains("cret"));

    let url = format!("{base}/garbage");
    let Fetched::File(file) = run(&request(&url)).unwrap() else {
        panic!("a file");
    };
    assert_eq!((file.size, file.mtime), (0, Mtime::default()));

    let known = Validators {
        etag: Some("\"v1\"".into()),
        last_modified: Some("then".into()),
    };
    let url = format!("{base}/same");
    let answer = run(&Request {
        known: Some(&known),
        ..request(&url)
    });
    assert!(matches!(answer, Ok(Fetched::Unchanged)));
    let asked = seen.lock().unwrap().last().cloned().unwrap();
    assert!(asked.contains("if-none-match: \"v1\"") && asked.contains("if-modified-since: then"));

    for (path, expected) in [
        ("/cut", "can't fetch"),
        ("/none", "404 Not Found"),
        ("/same", "304"),
    ] {
        let url = format!("{base}{path}");
        let error = run(&request(&url)).unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
    let url = format!("{base}/a/file.txt?x=1");
    let error = run(&Request {
        limit: 4,
        ..request(&url)
    });
    assert!(matches!(error, Err(HttpError::TooLong { .. })));
}

#[test]
fn redirects() {
    let (other, elsewhere) = serve(|_, _| body("", "elsewhere"));
    static OTHER: Mutex<String> = Mutex::new(String::new());
    OTHER.lock().unwrap().clone_from(&other);
    let (base, _) = serve(|path, own| match path {
        "/near" => to("/there"),
        "/far" => to(&format!("{}/x", OTHER.lock().unwrap())),
        "/file" => to("file:///etc/passwd"),
        "/ftp" => to("ftp://x/y"),
        "/loop" => to(&format!("{own}/loop")),
        "/bad" => to("http://[::"),
        _ => body("", "there"),
    });
    let get = |path: &str| {
        let url = format!("{base}{path}");
        run(&Request {
            authorization: Some("Bearer secret"),
            ..request(&url)
        })
    };
    let Ok(Fetched::File(file)) = get("/near") else {
        panic!("a file");
    };
    // The name is the one of the URL in the Dockerfile.
    assert_eq!(
        (file.name.as_str(), file.digest),
        ("near", Digest::of(b"there"))
    );
    assert!(matches!(get("/far"), Ok(Fetched::File(f)) if f.size == 9));
    assert!(!elsewhere.lock().unwrap()[0].contains("authorization"));
    for path in ["/file", "/ftp", "/loop", "/bad"] {
        assert!(
            matches!(get(path), Err(HttpError::Redirect { .. })),
            "{path}"
        );
    }
}

#[test]
fn names() {
    for (url, expected) in [
        ("http://h/a/b.txt", "b.txt"),
        ("http://h/a/b.txt?c=/d", "b.txt"),
        ("http://h/a/b/", "b"),
        ("http://h/", UNNAMED),
        ("http://h", UNNAMED),
        ("http://h/a%20b", "a b"),
        ("http://h/..%2f..%2fetc%2fpasswd", "passwd"),
        ("http://h/x%2f..", UNNAMED),
        ("http://h/%2e%2e", UNNAMED),
        ("http://h/a%00b", UNNAMED),
        ("http://h/a%0Ab", UNNAMED),
        ("http://h/%zz", "%zz"),
    ] {
        assert_eq!(file_name(url).unwrap(), expected, "{url}");
    }
    for bad in [
        "file:///etc/passwd",
        "ftp://h/x",
        "h/x",
        "http://",
        "https://u:p@[",
        "",
    ] {
        let error = file_name(bad).unwrap_err().to_string();
        assert!(!error.contains("u:p"), "{error}");
    }
    assert!(is_url("HTTPS://x") && !is_url("git://x") && !is_url("./http"));
    assert_eq!(redacted("https://u:p@h/x"), "https://h/x");
    assert_eq!(redacted("weird://a:b@c d/x"), "weird://c d/x");
}

#[test]
fn each_url_goes_by_its_own_proxy() {
    let (base, seen) = serve(|path, _| match path {
        "/direct" => to("/proxied"),
        _ => body("", "x"),
    });
    // Nothing listens there any more: what is sent there fails.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}", dead.local_addr().unwrap());
    let agents = Agents::new(
        move |url| (url.path() == "/proxied").then(|| dead.clone()),
        Roots::default(),
    );
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{base}/direct");
    let got = fetch(&agents, &request(&url), dir.path(), &Cancel::new());
    assert!(matches!(got, Err(HttpError::Transport { .. })), "{got:?}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}
