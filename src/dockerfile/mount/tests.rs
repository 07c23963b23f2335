use super::*;

#[test]
fn every_type_parses() {
    assert_eq!(
        parse("target=/src,source=app,from=build,rw").unwrap(),
        MountSpec::Bind(Bind {
            from: Some("build".into()),
            source: "app".into(),
            target: "/src".into(),
            read_only: false,
        })
    );
    assert_eq!(
        parse("type=cache,id=pip,dst=/c,sharing=locked,mode=0700,uid=1,gid=2,from=b,src=s")
            .unwrap(),
        MountSpec::Cache(Cache {
            id: Some("pip".into()),
            from: Some("b".into()),
            source: "s".into(),
            target: "/c".into(),
            read_only: false,
            sharing: Sharing::Locked,
            mode: Some(0o700),
            uid: Some(1),
            gid: Some(2),
        })
    );
    assert_eq!(
        parse("TYPE=TMPFS,destination=/t,size=1.5k").unwrap(),
        MountSpec::Tmpfs(Tmpfs {
            target: "/t".into(),
            size_bytes: Some(1536),
            read_only: false,
        })
    );
    assert_eq!(
        parse("required,type=secret,id=a/token,mode=0440").unwrap(),
        MountSpec::Secret(Secret {
            id: "a/token".into(),
            target: Some("/run/secrets/token".into()),
            env: None,
            required: true,
            mode: Some(0o440),
            uid: None,
            gid: None,
        })
    );
    assert_eq!(
        parse("type=ssh").unwrap(),
        MountSpec::Ssh(Ssh {
            id: "default".into(),
            target: None,
            required: false,
            mode: None,
            uid: None,
            gid: None,
        })
    );
}

#[test]
fn secrets_find_their_name_and_place() {
    let secret = |text: &str| match parse(text).unwrap() {
        MountSpec::Secret(s) => (s.id, s.target, s.env),
        other => panic!("{other:?}"),
    };
    let own = |s: &str| Some(s.to_owned());
    for (text, expected) in [
        ("type=secret,target=/a/b", ("b".into(), own("/a/b"), None)),
        (
            "type=secret,source=b",
            ("b".into(), own("/run/secrets/b"), None),
        ),
        ("type=secret,id=b,env=B", ("b".into(), None, own("B"))),
        (
            "type=secret,id=b,env=B,dst=/b",
            ("b".into(), own("/b"), own("B")),
        ),
    ] {
        assert_eq!(secret(text), expected, "{text}");
    }
}

#[test]
fn wrong_values_say_why() {
    for (text, message, hint) in [
        (
            "tpye=bind",
            "--mount has no key `tpye`",
            "did you mean `type`?",
        ),
        (
            "type=bnd",
            "--mount has no type `bnd`",
            "did you mean `bind`?",
        ),
        (
            "target",
            "--mount: `target` needs a value",
            "write `target=value`",
        ),
        (
            "type=cache,sharing=lock",
            "--mount has no sharing `lock`",
            "did you mean `locked`?",
        ),
        (
            "type=cache,mode=9",
            "--mount has no mode `9`",
            "it takes an octal number, as in `mode=0700`",
        ),
        (
            "type=cache,uid=root",
            "--mount has no uid `root`",
            "it takes a number, no name",
        ),
        (
            "uid=1",
            "--mount=type=bind takes no `uid`",
            "`uid` is for type=secret and type=ssh and type=cache",
        ),
        (
            "type=cache,size=1",
            "--mount=type=cache takes no `size`",
            "`size` is for type=tmpfs",
        ),
        (
            "required",
            "--mount=type=bind takes no `required`",
            "`required` is for type=secret and type=ssh",
        ),
        (
            "type=secret",
            "--mount=type=secret needs an `id` or a `target`",
            "write `--mount=type=secret,id=name`",
        ),
        (
            "ro=maybe",
            "--mount has no readonly `maybe`",
            "there are true, false",
        ),
        (
            "from=$X",
            "--mount: `from` can't have variables: `$X`",
            "name a stage with `FROM image:$VARIABLE AS name`, and write `from=name`",
        ),
        (
            "\"a",
            "--mount has an odd double quote",
            "leave quotes out; `type=cache,target=/path` needs none",
        ),
        ("", "--mount has no key ``", "did you mean `ro`?"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(error.hint(), Some(hint), "{text}");
    }
}

#[test]
fn sizes() {
    for (text, expected) in [
        ("0", Some(0)),
        ("64", Some(64)),
        ("64b", Some(64)),
        ("1k", Some(1024)),
        ("1KiB", Some(1024)),
        ("2 MB", Some(2 << 20)),
        (".5g", Some(1 << 29)),
        ("1ki", None),
        ("1kbb", None),
        ("k", None),
        ("-1", None),
        ("1.2.3", None),
        ("99999999999p", None),
    ] {
        assert_eq!(size(text).ok(), expected, "{text}");
    }
}

#[test]
fn values_are_expanded_one_by_one() {
    let expand = |value: &str| Ok(value.replace("$D", "/a,b"));
    let MountSpec::Bind(bind) = parse_with("target=$D,source=x", &expand).unwrap() else {
        panic!("a bind mount");
    };
    assert_eq!(bind.target, "/a,b");
    assert!(uses_variable_in_from("target=/a,from=${X}"));
    assert!(!uses_variable_in_from("target=$A,from=x"));
}

#[test]
fn quoted_fields_hold_commas() {
    assert_eq!(fields("a,\"b,\"\"c\",d").unwrap(), ["a", "b,\"c", "d"]);
    assert_eq!(fields("a\"b"), Err(MountError::Quotes));
    assert_eq!(fields("\"a\"b"), Err(MountError::Quotes));
}
