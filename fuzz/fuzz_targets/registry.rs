//! What registries and credential files say: challenges, links, pages, and
//! `config.json`. Nothing panics, a link never leads to another server, and no
//! message shows a secret.
//!
//! Input: a credential file, a challenge, a link and a page, parted by NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::registry::{AuthFile, AuthFiles, Credential, CredentialSource, fuzzing};

fn strings<'a>(value: &'a serde_json::Value, out: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::String(text) => out.push(text),
        serde_json::Value::Array(items) => items.iter().for_each(|v| strings(v, out)),
        serde_json::Value::Object(map) => map.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}

fn credentials(text: &str) {
    let files = AuthFiles::new(vec![AuthFile::Inline(text.as_bytes().to_vec())], None);
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let mut secrets = Vec::new();
    strings(&value["auths"], &mut secrets);
    for (registry, repository) in [("docker.io", "library/a"), ("r.io:5000", "x/y/z")] {
        match files.find(registry, repository) {
            Ok(Some(found)) => {
                let shown = format!("{found:?}");
                let secret = match &found {
                    Credential::Basic { password, .. } => password,
                    Credential::IdentityToken(token) | Credential::RegistryToken(token) => token,
                };
                let name = match &found {
                    Credential::Basic { username, .. } => username.as_str(),
                    _ => "",
                };
                let longer = secret.len() > 6 && !"IdentityToken(***)".contains(secret.as_str());
                let longer = longer && !"RegistryToken(***)".contains(secret.as_str());
                assert!(!longer || name.contains(secret.as_str()) || !shown.contains(secret));
            }
            Ok(None) => {}
            Err(error) => {
                let message = error.to_string();
                // Words of the message itself are no secrets.
                let plain = AuthFiles::new(vec![AuthFile::Inline(b"{".to_vec())], None)
                    .find(registry, repository)
                    .expect_err("a brace is no file")
                    .to_string();
                for secret in secrets.iter().filter(|s| s.len() > 12) {
                    assert!(
                        plain.contains(secret) || !message.contains(secret),
                        "{message}"
                    );
                }
            }
        }
    }
}

fuzz_target!(|input: &str| {
    let mut parts = shiplap_fuzz::parts(input);
    let mut next = || parts.next().unwrap_or_default();
    credentials(next());
    if let Some((realm, service)) = fuzzing::challenge(next()) {
        assert!(!realm.is_empty() && service.as_deref() != Some(""));
    }
    if let Some(url) = fuzzing::next_page("https://r.io:5000/v2/x/tags/list", next()) {
        assert!(url.starts_with("https://r.io:5000/"), "{url}");
    }
    if let Some(tags) = fuzzing::tags(next().as_bytes()) {
        assert!(tags.len() <= input.len());
    }
});
