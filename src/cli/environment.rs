//! What the environment says about registries and networks, and the files
//! that it leads to. Readers take the lookup of variables as an argument.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use shiplap::context::git::GitOptions;
use shiplap::registry::{AuthFile, Proxies};
use shiplap::roots::Roots;

/// A lookup of variables.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The value of a variable that is set and not empty.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn path(variable: Variables<'_>, name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from)
}

/// The user's directory of settings, `~/.config`.
fn settings(variable: Variables<'_>) -> Option<PathBuf> {
    path(variable, "XDG_CONFIG_HOME")
        .or_else(|| path(variable, "HOME").map(|home| home.join(".config")))
}

/// Docker's directory of settings, `~/.docker`.
fn docker(variable: Variables<'_>) -> Option<PathBuf> {
    path(variable, "DOCKER_CONFIG")
        .or_else(|| path(variable, "HOME").map(|home| home.join(".docker")))
}

/// Where credentials may be, in the order in which they are asked.
pub(super) fn auth_files(variable: Variables<'_>) -> Vec<AuthFile> {
    let inline = variable("DOCKER_AUTH_CONFIG").map(|text| {
        // A variable of the kind "file" has the path of one.
        match text.as_encoded_bytes() {
            [b'/', ..] => AuthFile::Path(text.into()),
            _ => AuthFile::Inline(text.into_encoded_bytes()),
        }
    });
    let run = match path(variable, "XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("containers/auth.json"),
        None => {
            let user = rustix::process::getuid().as_raw();
            format!("/run/containers/{user}/auth.json").into()
        }
    };
    let mut files: Vec<AuthFile> = path(variable, "REGISTRY_AUTH_FILE")
        .map(AuthFile::Path)
        .into_iter()
        .chain(inline)
        .collect();
    files.extend(docker(variable).map(AuthFile::Path));
    files.push(AuthFile::Path(run));
    files.extend(settings(variable).map(|dir| AuthFile::Path(dir.join("containers/auth.json"))));
    files.extend(path(variable, "HOME").map(|home| AuthFile::Path(home.join(".dockercfg"))));
    files
}

/// The file that logins go to: `$REGISTRY_AUTH_FILE`, else docker's.
pub(super) fn login_file(variable: Variables<'_>) -> Option<PathBuf> {
    path(variable, "REGISTRY_AUTH_FILE")
        .or_else(|| docker(variable).map(|dir| dir.join("config.json")))
}

/// Directories with certificates for single registries, the user's first.
pub(super) fn certificate_dirs(variable: Variables<'_>) -> Vec<PathBuf> {
    let own = settings(variable).map(|dir| dir.join("containers/certs.d"));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
    own.into_iter()
        .chain(system.into_iter().map(PathBuf::from))
        .collect()
}

/// The files of `registries.conf`, in the order in which they count, with
/// their texts: `$CONTAINERS_REGISTRIES_CONF` alone, else the user's file or
/// the system's, and the drop-ins of both.
pub(super) fn registries_files(variable: Variables<'_>) -> anyhow::Result<Vec<(PathBuf, String)>> {
    const SYSTEM: &str = "/etc/containers/registries.conf";
    let read = |file: PathBuf| match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some((file, text))),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("can't read {}", file.display())),
    };
    if let Some(file) = path(variable, "CONTAINERS_REGISTRIES_CONF") {
        let text = std::fs::read_to_string(&file);
        let text = text.with_context(|| format!("can't read {}", file.display()))?;
        return Ok(vec![(file, text)]);
    }
    let own = settings(variable).map(|dir| dir.join("containers/registries.conf"));
    let mut files = Vec::new();
    let main = match own.clone().map(read).transpose()?.flatten() {
        None => read(SYSTEM.into())?,
        found => found,
    };
    files.extend(main);
    for base in [Some(PathBuf::from(SYSTEM)), own].into_iter().flatten() {
        for file in drop_ins(&base.with_extension("conf.d"))? {
            files.extend(read(file)?);
        }
    }
    Ok(files)
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    // What is only for others to read is none of our affair.
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

fn drop_ins(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let fail = || format!("can't read {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(fail),
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.with_context(fail)?.path());
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "conf"));
    files.sort();
    Ok(files)
}

/// The git program, for sources that are repositories.
pub(super) fn git(roots: Roots) -> Option<GitOptions> {
    let path = variable("PATH")?;
    let program = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("git"))
        .find(|program| program.is_file())?;
    let passed = ["SSH_AUTH_SOCK", "HOME"].into_iter().chain(PROXIES);
    let env = passed.filter_map(|name| Some((name.into(), variable(name)?)));
    Some(GitOptions {
        program,
        env: env.collect(),
        path,
        roots,
        authorization: None,
        keep_git_dir: false,
        checksum: None,
    })
}

/// Variables that name proxies.
const PROXIES: [&str; 7] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "no_proxy",
    "NO_PROXY",
];

/// Proxies as the usual variables name them; lower case wins.
pub(super) fn proxies(variable: Variables<'_>) -> Proxies {
    let text = |name: &str| {
        variable(name)
            .or_else(|| variable(&name.to_ascii_uppercase()))
            .map(|value| value.to_string_lossy().into_owned())
    };
    let all = text("all_proxy");
    Proxies {
        http: text("http_proxy").or_else(|| all.clone()),
        https: text("https_proxy").or(all),
        exceptions: text("no_proxy")
            .map(|list| list.split(',').map(|e| e.trim().to_owned()).collect())
            .unwrap_or_default(),
    }
}

/// CA certificates, with those that other programs are told to take.
pub(super) fn roots(variable: Variables<'_>) -> Roots {
    let dirs = variable("SSL_CERT_DIR").unwrap_or_default();
    let dirs = std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty());
    Roots::new(variable("SSL_CERT_FILE").map(PathBuf::from), dirs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_files_in_their_order() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/u".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".into()),
            "REGISTRY_AUTH_FILE" => Some("/a.json".into()),
            "DOCKER_AUTH_CONFIG" => Some("{}".into()),
            _ => None,
        };
        let shown = |variable: Variables<'_>| -> Vec<String> {
            let files = auth_files(variable);
            files.iter().map(|f| format!("{f:?}")).collect()
        };
        assert_eq!(
            shown(&variable),
            [
                "Path(/a.json)",
                "Inline(***)",
                "Path(/home/u/.docker)",
                "Path(/run/user/1/containers/auth.json)",
                "Path(/home/u/.config/containers/auth.json)",
                "Path(/home/u/.dockercfg)",
            ]
        );
        assert_eq!(login_file(&variable), Some("/a.json".into()));
        let file = |name: &str| (name == "DOCKER_AUTH_CONFIG").then(|| "/builds/x.json".into());
        let user = rustix::process::getuid().as_raw();
        assert_eq!(
            shown(&file),
            [
                "Path(/builds/x.json)".to_owned(),
                format!("Path(/run/containers/{user}/auth.json)"),
            ]
        );
        assert_eq!(login_file(&file), None);
    }

    #[test]
    fn the_users_registries_conf_wins() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("containers");
        std::fs::create_dir_all(own.join("registries.conf.d")).unwrap();
        for file in [
            "registries.conf",
            "registries.conf.d/20.conf",
            "registries.conf.d/10.conf",
            "registries.conf.d/note.txt",
        ] {
            std::fs::write(own.join(file), file).unwrap();
        }
        let variable =
            |name: &str| (name == "XDG_CONFIG_HOME").then(|| dir.path().as_os_str().to_owned());
        let texts: Vec<String> = registries_files(&variable)
            .unwrap()
            .into_iter()
            .filter(|(file, _)| file.starts_with(dir.path()))
            .map(|(_, text)| text)
            .collect();
        assert_eq!(
            texts,
            [
                "registries.conf",
                "registries.conf.d/10.conf",
                "registries.conf.d/20.conf"
            ]
        );
        let only = own.join("registries.conf.d/note.txt");
        let variable =
            |name: &str| (name == "CONTAINERS_REGISTRIES_CONF").then(|| only.clone().into());
        assert_eq!(registries_files(&variable).unwrap().len(), 1);
        let missing = |name: &str| (name == "CONTAINERS_REGISTRIES_CONF").then(|| "/no".into());
        assert!(registries_files(&missing).is_err());
    }

    #[test]
    fn proxies_come_from_either_case() {
        let variable = |name: &str| match name {
            "http_proxy" => Some("http://p:1".into()),
            "HTTP_PROXY" => Some("http://no:1".into()),
            "ALL_PROXY" => Some("http://all:1".into()),
            "NO_PROXY" => Some("a, .b".into()),
            _ => None,
        };
        let proxies = proxies(&variable);
        assert_eq!(proxies.http.as_deref(), Some("http://p:1"));
        assert_eq!(proxies.https.as_deref(), Some("http://all:1"));
        assert_eq!(proxies.exceptions, ["a", ".b"]);
    }
}
