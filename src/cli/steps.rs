//! How commands are confined: the flags that `build` and `run` share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use shiplap::container::{
    Capabilities, Confinement, Device, Helper, Isolation, IsolationError, Labels, Limits, Most,
    Network, Profile, RootKind, Seccomp, Ulimit, private_resolv_conf,
};

use super::error::Usage;
use super::values;

/// Where SELinux shows that it is there.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// Says whether AppArmor is in force.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// OCI runtimes, in the order in which they are looked for.
const RUNTIMES: [&str; 4] = ["runc", "crun", "youki", "runsc"];
/// The kernel's usual period of CPU quotas, microseconds.
const CPU_PERIOD: u64 = 100_000;

/// What a command may do and use.
#[derive(Debug, Clone, Args)]
pub(super) struct StepArgs {
    /// Network: host, none (loopback only) or private (its own, by way of pasta
    /// or slirp4netns, which may be named instead)
    #[arg(long, alias = "net", value_name = "MODE", default_value = "host")]
    #[arg(value_parser = network, help_heading = "Steps")]
    network: Network,
    /// How commands are kept apart from this machine: auto, namespaces,
    /// chroot, proot or oci; shiplap doctor tells what works here
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        help_heading = "Steps"
    )]
    #[arg(env = "SHIPLAP_ISOLATION", hide_env = true, value_parser = isolation)]
    isolation: Isolation,
    /// What root filesystems are made of: auto, overlay (a mount) or directory
    /// (a copy)
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        help_heading = "Steps"
    )]
    #[arg(env = "SHIPLAP_SNAPSHOT", hide_env = true, value_enum)]
    snapshot: Snapshot,
    /// OCI runtime of --isolation=oci: runc, crun or a path [default: the first
    /// that is installed]
    #[arg(long, value_name = "PROGRAM", env = "SHIPLAP_RUNTIME", hide_env = true)]
    #[arg(help_heading = "Steps")]
    runtime: Option<String>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "HOST:ADDRESS", value_parser = values::host, help_heading = "Steps")]
    add_host: Vec<(String, String)>,
    /// Name server, in place of this machine's
    #[arg(long, value_name = "ADDRESS", help_heading = "Steps")]
    dns: Vec<std::net::IpAddr>,
    /// Domain to look names up in; . is none
    #[arg(long, value_name = "DOMAIN", value_parser = dns_word, help_heading = "Steps")]
    dns_search: Vec<String>,
    /// Option of the resolver, as in ndots:2
    #[arg(long, value_name = "OPTION", value_parser = dns_word, help_heading = "Steps")]
    dns_option: Vec<String>,
    /// Name of the host [default: shiplap]
    #[arg(long, value_name = "NAME", value_parser = hostname, help_heading = "Steps")]
    pub(super) hostname: Option<String>,
    /// Size of /dev/shm, as in 64m
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, help_heading = "Steps")]
    shm_size: Option<u64>,
    /// Limit of a resource of each process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = values::ulimit, help_heading = "Steps")]
    ulimit: Vec<Ulimit>,

    /// Most memory, as in 512m
    #[arg(short, long, value_name = "SIZE", value_parser = values::bytes, help_heading = "Limits")]
    memory: Option<u64>,
    /// Most memory and swap space together; -1 is no limit [default: twice
    /// --memory]
    #[arg(long, value_name = "SIZE", value_parser = most_bytes, allow_negative_numbers = true)]
    #[arg(help_heading = "Limits")]
    memory_swap: Option<Most>,
    /// Most CPUs, as in 1.5
    #[arg(long, value_name = "N", value_parser = cpus, help_heading = "Limits")]
    cpus: Option<u64>,
    /// Weight among those who want the CPU; 1024 is the usual one
    #[arg(short = 'c', long, value_name = "N", help_heading = "Limits")]
    cpu_shares: Option<u64>,
    /// Period of --cpu-quota in microseconds
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpu_period: Option<u64>,
    /// Most CPU time in each period, in microseconds
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    cpu_quota: Option<i64>,
    /// CPUs to use, as in 0-2,4
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = "Limits")]
    cpuset_mems: Option<String>,
    /// Most processes; -1 is no limit
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pids_limit: Option<i64>,
    /// Control group below which groups are made
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    cgroup_parent: Option<String>,

    /// seccomp=FILE|unconfined, apparmor=PROFILE, label=PART:VALUE|disable,
    /// no-new-privileges
    #[arg(long, value_name = "OPTION", help_heading = "Privileges")]
    security_opt: Vec<String>,
    /// Capability to have beside the usual ones, or ALL
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Privileges"
    )]
    cap_add: Vec<String>,
    /// Capability to do without, or ALL
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Privileges"
    )]
    cap_drop: Vec<String>,
    /// Device of this machine to have
    #[arg(long, value_name = "PATH[:PATH[:rwm]]", value_parser = device, help_heading = "Privileges")]
    device: Vec<Vec<Device>>,
}

/// `--snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Snapshot {
    /// What works best here.
    Auto,
    /// An overlay mount.
    Overlay,
    /// One plain tree.
    Directory,
}

/// The first OCI runtime that is installed. `variable` reads the environment.
pub(super) fn installed_runtime(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    RUNTIMES
        .iter()
        .find_map(|name| find_program(name, variable))
}

/// A program on the PATH, or where systems have theirs.
pub(super) fn find_program(
    name: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).filter(|d| d.is_absolute());
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/bin"].map(PathBuf::from);
    let mut paths = own.chain(usual).map(|d| d.join(name));
    paths.find(|p| p.is_file())
}

fn isolation(name: &str) -> Result<Isolation, IsolationError> {
    name.parse()
}

impl StepArgs {
    /// How commands are isolated.
    pub(super) fn isolation(&self) -> Isolation {
        match (self.isolation, &self.runtime) {
            (Isolation::Auto, Some(_)) => Isolation::Oci,
            (isolation, _) => isolation,
        }
    }

    /// What their root filesystems are made of.
    pub(super) fn root_kind(&self) -> Option<RootKind> {
        match self.snapshot {
            Snapshot::Auto => None,
            Snapshot::Overlay => Some(RootKind::Overlay),
            Snapshot::Directory => Some(RootKind::Directory),
        }
    }

    /// The OCI runtime that is asked for, or that there is. `variable` reads
    /// the environment.
    ///
    /// # Errors
    /// [`Usage`] when there is none of that name.
    pub(super) fn runtime(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let find = |name: &str| find_program(name, variable);
        match &self.runtime {
            None => Ok(installed_runtime(variable)),
            Some(text) if text.contains('/') => {
                let path = std::path::absolute(text)?;
                match path.is_file() {
                    true => Ok(Some(path)),
                    false => Err(Usage::error(format!(
                        "--runtime {text}: there is no such file"
                    ))),
                }
            }
            Some(name) => match find(name) {
                Some(path) => Ok(Some(path)),
                None => Err(Usage::error(format!(
                    "--runtime {name}: it is not on the PATH"
                ))),
            },
        }
    }

    /// The network of commands that do not ask for one.
    pub(super) fn network(&self) -> Network {
        self.network
    }

    /// Lines of `/etc/hosts`.
    pub(super) fn hosts(&self) -> Vec<(String, String)> {
        self.add_host.clone()
    }

    /// The content of `/etc/resolv.conf`, given this machine's.
    pub(super) fn resolv_conf(&self, host: &str) -> String {
        let host = match self.network {
            Network::Private(_) if self.dns.is_empty() => private_resolv_conf(host),
            Network::Private(_) | Network::Host | Network::None => host.to_owned(),
        };
        let replaced = |key: &str| match key {
            "nameserver" => !self.dns.is_empty(),
            "search" | "domain" => !self.dns_search.is_empty(),
            "options" => !self.dns_option.is_empty(),
            _ => false,
        };
        let key = |line: &str| {
            line.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let kept = host.lines().filter(|line| !replaced(&key(line)));
        let mut text: String = kept.map(|line| format!("{line}\n")).collect();
        for server in &self.dns {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let domains: Vec<&str> = self.dns_search.iter().map(String::as_str).collect();
        if !matches!(domains[..], [] | ["."]) {
            text.push_str(&format!("search {}\n", domains.join(" ")));
        }
        if !self.dns_option.is_empty() {
            text.push_str(&format!("options {}\n", self.dns_option.join(" ")));
        }
        text
    }

    /// What commands may do and use.
    ///
    /// # Errors
    /// [`Usage`] when flags make no sense, and when a profile can't be read.
    pub(super) fn confinement(&self) -> anyhow::Result<Confinement> {
        let mut all = Confinement {
            capabilities: self.capabilities()?,
            devices: self.device.iter().flatten().cloned().collect(),
            limits: self.limits()?,
            ulimits: self.ulimit.clone(),
            ..Confinement::default()
        };
        if let Some(size) = self.shm_size {
            all.shm_size = size;
        }
        for text in &self.security_opt {
            security_option(text, &mut all)
                .map_err(|e| Usage::error(format!("--security-opt {text}: {e}")))?;
        }
        Ok(all)
    }

    /// Dropping all comes first, so that single ones may be added then.
    fn capabilities(&self) -> anyhow::Result<Capabilities> {
        let mut set = Capabilities::default();
        let is_all = |name: &&String| name.eq_ignore_ascii_case("all");
        let flag = |flag: &'static str| {
            move |e: shiplap::container::SpecError| Usage::error(format!("{flag}: {e}"))
        };
        if self.cap_drop.iter().any(|n| is_all(&n)) {
            set = Capabilities::none();
        }
        for name in &self.cap_add {
            set.add(name).map_err(flag("--cap-add"))?;
        }
        for name in self.cap_drop.iter().filter(|n| !is_all(n)) {
            set.drop(name).map_err(flag("--cap-drop"))?;
        }
        Ok(set)
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        if self.cpus.is_some() && (self.cpu_quota.is_some() || self.cpu_period.is_some()) {
            return Err(Usage::error(
                "--cpus stands for --cpu-quota and --cpu-period; leave them out",
            ));
        }
        if let (Some(memory), Some(Most::Of(both))) = (self.memory, self.memory_swap)
            && both < memory
        {
            return Err(Usage::error(
                "--memory-swap is memory and swap space together; it can't be less than --memory",
            ));
        }
        if self.memory.is_none() && matches!(self.memory_swap, Some(Most::Of(_))) {
            return Err(Usage::error("--memory-swap needs --memory"));
        }
        Ok(Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu_quota: self
                .cpus
                .or(self.cpu_quota.and_then(|q| u64::try_from(q).ok())),
            cpu_period: self.cpus.map(|_| CPU_PERIOD).or(self.cpu_period),
            cpu_shares: self.cpu_shares.filter(|s| *s > 0),
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids: self.pids_limit.map(|n| match u64::try_from(n) {
                Ok(0) | Err(_) => Most::Unlimited,
                Ok(n) => Most::Of(n),
            }),
            parent: self.cgroup_parent.clone(),
        })
    }
}

/// One `--security-opt`; `=` and, as of old, `:` part name and value.
fn security_option(text: &str, all: &mut Confinement) -> Result<(), String> {
    let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => all.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => all.no_new_privileges = false,
        ("seccomp", Some("unconfined")) => all.seccomp = Seccomp::Unconfined,
        ("seccomp", Some("builtin" | "default")) => all.seccomp = Seccomp::Default,
        ("seccomp", Some(file)) => {
            let json = std::fs::read(file).map_err(|e| format!("can't read {file}: {e}"))?;
            let profile = Profile::parse(&json, &all.capabilities).map_err(|e| e.to_string())?;
            all.seccomp = Seccomp::Profile(Box::new(profile));
        }
        ("apparmor", Some("unconfined")) => all.labels.apparmor = None,
        ("apparmor", Some(profile)) => {
            let here = std::fs::read_to_string(APPARMOR).unwrap_or_default();
            if here.trim() != "Y" {
                return Err("this kernel has no AppArmor, or it is switched off".into());
            }
            all.labels.apparmor = Some(profile.to_owned());
        }
        ("label", Some("disable")) => all.labels.selinux = None,
        ("label", Some(part)) => {
            if !Path::new(SELINUX).exists() {
                return Err("this kernel has no SELinux, or it is switched off".into());
            }
            add_label(&mut all.labels, part)?;
        }
        _ => {
            return Err(
                "known are seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, label=PART:VALUE, \
                 label=disable and no-new-privileges"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Sets one part of the context that containers usually have.
fn add_label(labels: &mut Labels, part: &str) -> Result<(), String> {
    let context = labels.selinux.as_deref();
    let context = context.unwrap_or("system_u:system_r:container_t:s0");
    let mut parts: Vec<String> = context.splitn(4, ':').map(str::to_owned).collect();
    let (name, value) = part.split_once(':').ok_or("write label=type:container_t")?;
    let place = ["user", "role", "type", "level"]
        .iter()
        .position(|p| *p == name);
    match place.and_then(|i| parts.get_mut(i)) {
        Some(place) if !value.is_empty() => *place = value.to_owned(),
        _ => {
            return Err(format!(
                "{name:?} is no part of a label; known are user, role, type and level"
            ));
        }
    }
    labels.selinux = Some(parts.join(":"));
    Ok(())
}

fn network(text: &str) -> Result<Network, String> {
    match text {
        "host" | "default" => Ok(Network::Host),
        "none" => Ok(Network::None),
        "private" | "sandbox" => Ok(Network::Private(Helper::Any)),
        "pasta" => Ok(Network::Private(Helper::Pasta)),
        "slirp4netns" => Ok(Network::Private(Helper::Slirp4netns)),
        _ => Err("it must be host, none, private, pasta or slirp4netns".into()),
    }
}

fn dns_word(text: &str) -> Result<String, String> {
    match text.chars().all(|c| c.is_ascii_graphic()) && !text.is_empty() {
        true => Ok(text.into()),
        false => Err("it has characters that resolv.conf can't hold".into()),
    }
}

pub(super) fn hostname(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match !text.is_empty() && text.len() <= 64 && text.chars().all(fits) {
        true => Ok(text.into()),
        false => Err("it is no host name of at most 64 characters".into()),
    }
}

fn most_bytes(text: &str) -> Result<Most, String> {
    match text {
        "-1" => Ok(Most::Unlimited),
        _ => values::bytes(text).map(Most::Of),
    }
}

/// `1.5` as microseconds of each period.
fn cpus(text: &str) -> Result<u64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of CPUs"))?;
    if !(0.01..=1e6).contains(&number) {
        return Err("it must be at least 0.01".into());
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within bounds"
    )]
    Ok((number * CPU_PERIOD as f64).round() as u64)
}

fn cpu_list(text: &str) -> Result<String, String> {
    let number = |n: &str| n.parse::<u32>().is_ok();
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => number(from) && number(to),
        None => number(part),
    };
    match text.split(',').all(range) {
        true => Ok(text.into()),
        false => Err("it must be a list as in 0-2,4".into()),
    }
}

/// `SOURCE[:TARGET[:rwm]]`; a directory stands for the devices in it.
fn device(text: &str) -> Result<Vec<Device>, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_mode(mode) => (source, target, mode),
        _ => return Err("it must be PATH[:PATH[:rwm]]".into()),
    };
    if !source.starts_with('/') || !target.starts_with("/dev/") {
        return Err("devices have absolute paths, and are below /dev in the container".into());
    }
    if !(mode.contains('r') && mode.contains('w')) {
        return Err(
            "a device is for reading and writing; its own permissions say who may do which".into(),
        );
    }
    if !Path::new(source).is_dir() {
        return Ok(vec![Device {
            source: source.into(),
            target: target.into(),
        }]);
    }
    let entries = std::fs::read_dir(source).map_err(|e| format!("can't read {source}: {e}"))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.file_name().into()).collect();
    names.sort();
    Ok(names
        .iter()
        .filter(|name| is_device(&Path::new(source).join(name)))
        .map(|name| Device {
            source: Path::new(source).join(name),
            target: Path::new(target).join(name),
        })
        .collect())
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|m| {
        let kind = m.file_type();
        kind.is_char_device() || kind.is_block_device()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        steps: StepArgs,
    }

    fn steps(args: &[&str]) -> Result<StepArgs, String> {
        let line = Line::try_parse_from(["x"].iter().chain(args));
        line.map(|l| l.steps).map_err(|e| e.to_string())
    }

    fn confinement(args: &[&str]) -> Result<Confinement, String> {
        steps(args)?.confinement().map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_asked_is_the_default() {
        assert_eq!(confinement(&[]).unwrap(), Confinement::default());
        let steps = steps(&[]).unwrap();
        assert_eq!(steps.network(), Network::Host);
        assert_eq!(
            steps.resolv_conf("nameserver 127.0.0.53\n"),
            "nameserver 127.0.0.53\n"
        );
    }

    #[test]
    fn limits_are_read() {
        let limits = confinement(&[
            "-m",
            "64m",
            "--memory-swap=-1",
            "--cpus",
            "1.5",
            "-c",
            "512",
            "--cpuset-cpus",
            "0-1,3",
            "--cpuset-mems=0",
            "--pids-limit",
            "30",
            "--cgroup-parent",
            "/a",
        ])
        .unwrap()
        .limits;
        assert_eq!(
            limits,
            Limits {
                memory: Some(64 << 20),
                memory_swap: Some(Most::Unlimited),
                cpu_quota: Some(150_000),
                cpu_period: Some(100_000),
                cpu_shares: Some(512),
                cpuset_cpus: Some("0-1,3".into()),
                cpuset_mems: Some("0".into()),
                pids: Some(Most::Of(30)),
                parent: Some("/a".into()),
            }
        );
        let limits = confinement(&["--pids-limit=-1", "--cpu-quota=-1"])
            .unwrap()
            .limits;
        assert_eq!(
            (limits.pids, limits.cpu_quota),
            (Some(Most::Unlimited), None)
        );
    }

    #[test]
    fn privileges_are_read() {
        let all = confinement(&[
            "--cap-drop",
            "all",
            "--cap-add=net_raw,CAP_CHOWN",
            "--cap-drop=CHOWN",
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt=no-new-privileges",
            "--security-opt",
            "apparmor=unconfined",
            "--security-opt=label:disable",
            "--device",
            "/dev/null:/dev/x/y",
            "--shm-size=1m",
            "--ulimit",
            "nofile=5:6",
        ])
        .unwrap();
        assert_eq!(all.capabilities.names(), ["CAP_NET_RAW"]);
        assert_eq!(all.seccomp, Seccomp::Unconfined);
        assert!(all.no_new_privileges);
        assert_eq!(all.devices[0].target, Path::new("/dev/x/y"));
        assert_eq!((all.shm_size, all.ulimits[0].hard), (1 << 20, Some(6)));
        let mut labels = Labels::default();
        add_label(&mut labels, "type:spc_t").unwrap();
        add_label(&mut labels, "level:s0:c1,c2").unwrap();
        assert_eq!(
            labels.selinux.as_deref(),
            Some("system_u:system_r:spc_t:s0:c1,c2")
        );
        assert!(add_label(&mut labels, "color:red").is_err());
    }

    #[test]
    fn resolvers_can_be_replaced() {
        let host = "# mine\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n";
        let of = |args: &[&str]| steps(args).unwrap().resolv_conf(host);
        assert_eq!(
            of(&["--dns", "9.9.9.9", "--dns=::1"]),
            "# mine\nsearch a b\noptions edns0\nnameserver 9.9.9.9\nnameserver ::1\n"
        );
        assert_eq!(
            of(&["--dns-search", ".", "--dns-option", "ndots:2"]),
            "# mine\nnameserver 127.0.0.53\noptions ndots:2\n"
        );
        assert_eq!(
            of(&["--network=private"]),
            "# mine\nsearch a b\noptions edns0\nnameserver 10.0.2.3\n"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [
            &["--network=bridge"][..],
            &["--dns=dns.example"],
            &["--dns-search=a b"],
            &["--hostname=a/b"],
            &["--memory=lots"],
            &["--memory=2m", "--memory-swap=1m"],
            &["--memory-swap=1m"],
            &["--cpus=0"],
            &["--cpus=1", "--cpu-quota=5"],
            &["--cpuset-cpus=0-"],
            &["--cap-add=FLY"],
            &["--security-opt=trust"],
            &["--security-opt=seccomp=/nothing/here"],
            &["--device=null"],
            &["--device=/dev/null:/etc/x"],
            &["--device=/dev/null:/dev/x:r"],
            &["--device=/dev/null:x:y:z"],
            &["--ulimit=x=1"],
        ] {
            assert!(confinement(args).is_err(), "{args:?}");
        }
        // Asked for on a machine that has none of it.
        if !Path::new(SELINUX).exists() {
            assert!(confinement(&["--security-opt=label=type:x"]).is_err());
        }
        if std::fs::read_to_string(APPARMOR).is_err() {
            assert!(confinement(&["--security-opt=apparmor=x"]).is_err());
        }
    }
}
