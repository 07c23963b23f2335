//! Control groups: what all processes of a run may use together.
//!
//! The keeper makes the groups before the first process, which joins them
//! before anything else, and removes them when the container is gone. What a
//! keeper that was killed itself has left is removed by the next one.
//!
//! Groups are made below `shiplap` at the top of each hierarchy (as far as
//! this process sees it), or below the group that was asked for. Where that is
//! refused, a limit is an error: never silence.
//!
//! # Specification
//! The kernel's `cgroup-v2.rst` and `cgroup-v1/*.rst`. Each controller is
//! looked for in the unified hierarchy first; it can be in one only.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::protocol::{Failure, Tried};

/// Where groups are made unless told otherwise.
const PARENT: &str = "shiplap";
/// Begins the names of groups of one run.
const PREFIX: &str = "run-";
/// The kernel's usual period of CPU quotas, microseconds.
const CPU_PERIOD: u64 = 100_000;
/// How long the kernel may take to let go of a group that ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// Limits on what all processes of a run use together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap space together. Without it and with `memory`
    /// it is twice that, where the kernel counts swap.
    pub memory_swap: Option<Most>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<u64>,
    /// Microseconds of a period; 100,000 when absent.
    pub cpu_period: Option<u64>,
    /// Weight among those who want the CPU; 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// CPUs, as in `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as in `0`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<Most>,
    /// The group below which the run's own is made, from the top of the
    /// hierarchies.
    pub parent: Option<String>,
}

/// A bound, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Most {
    /// So many.
    Of(u64),
    /// As many as there are.
    Unlimited,
}

impl Most {
    fn text(self, unlimited: &str) -> String {
        match self {
            Self::Of(n) => n.to_string(),
            Self::Unlimited => unlimited.into(),
        }
    }
}

impl Limits {
    /// Whether nothing is limited and no group was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What to write into which file of a group.
    fn writes(&self, of: &dyn Fn(Controller) -> Option<Version>) -> Vec<Write> {
        let mut all = Vec::new();
        let mut add = |controller, what, v1: (&'static str, String), v2: (&'static str, String)| {
            let (file, value) = match of(controller) {
                Some(Version::One) => v1,
                Some(Version::Two) | None => v2,
            };
            all.push(Write {
                controller,
                what,
                file,
                value,
                optional: false,
            });
        };
        if let Some(bytes) = self.memory {
            let value = bytes.to_string();
            add(
                Controller::Memory,
                "memory",
                ("memory.limit_in_bytes", value.clone()),
                ("memory.max", value),
            );
        }
        let implied = self.memory.map(|m| Most::Of(m.saturating_mul(2)));
        if let Some(both) = self.memory_swap.or(implied) {
            // The unified hierarchy counts swap alone.
            let swap = match (both, self.memory) {
                (Most::Of(both), Some(memory)) => Most::Of(both.saturating_sub(memory)),
                (both, _) => both,
            };
            add(
                Controller::Memory,
                "swap space",
                ("memory.memsw.limit_in_bytes", both.text("-1")),
                ("memory.swap.max", swap.text("max")),
            );
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            let period = self.cpu_period.unwrap_or(CPU_PERIOD);
            let quota = self.cpu_quota.map_or(Most::Unlimited, Most::Of);
            let both = format!("{} {period}", quota.text("max"));
            if of(Controller::Cpu) == Some(Version::One) {
                let value = period.to_string();
                let file = ("cpu.cfs_period_us", value);
                add(Controller::Cpu, "CPU time", file.clone(), file);
            }
            add(
                Controller::Cpu,
                "CPU time",
                ("cpu.cfs_quota_us", quota.text("-1")),
                ("cpu.max", both),
            );
        }
        if let Some(shares) = self.cpu_shares {
            add(
                Controller::Cpu,
                "CPU shares",
                ("cpu.shares", shares.to_string()),
                ("cpu.weight", weight(shares).to_string()),
            );
        }
        for (value, what, file) in [
            (&self.cpuset_cpus, "CPUs", "cpuset.cpus"),
            (&self.cpuset_mems, "memory nodes", "cpuset.mems"),
        ] {
            if let Some(value) = value {
                let file = (file, value.clone());
                add(Controller::Cpuset, what, file.clone(), file);
            }
        }
        if let Some(pids) = self.pids {
            let file = ("pids.max", pids.text("max"));
            add(Controller::Pids, "processes", file.clone(), file);
        }
        for write in &mut all {
            write.optional = write.what == "swap space" && self.memory_swap.is_none();
        }
        all
    }
}

/// Shares (2 to 262144, usually 1024) as a weight (1 to 10000, usually 100),
/// in the way that container runtimes convert it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A limit as the content of a file.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    controller: Controller,
    /// What is limited, for people.
    what: &'static str,
    file: &'static str,
    value: String,
    /// It is left out where the kernel has no such file.
    optional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    One,
    Two,
}

/// What limits one kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// The hierarchies of this machine, as this process sees them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    /// Mount point of the unified hierarchy.
    unified: Option<PathBuf>,
    /// Mount points of controllers' own hierarchies.
    own: BTreeMap<Controller, PathBuf>,
    /// All mount points, of controllers that are not ours to set too.
    points: Vec<PathBuf>,
}

impl Hierarchies {
    /// Those that are mounted.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    fn find() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(unescape) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => {
                    found.points.push(point.clone());
                    found.unified = found.unified.or(Some(point));
                }
                Some("cgroup") => {
                    found.points.push(point.clone());
                    let options = right.nth(1).unwrap_or_default();
                    for controller in Controller::ALL {
                        if options.split(',').any(|o| o == controller.name()) {
                            let at = found.own.entry(controller);
                            at.or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where `controller` is, and in which form.
    fn of(&self, controller: Controller) -> Option<(Version, &Path)> {
        if let Some(unified) = &self.unified {
            let all = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            if all.split_whitespace().any(|c| c == controller.name()) {
                return Some((Version::Two, unified));
            }
        }
        let own = self.own.get(&controller)?;
        Some((Version::One, own))
    }
}

/// A mount point of `mountinfo`, where blanks are octal escapes.
fn unescape(text: &str) -> PathBuf {
    let unescaped = text
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    unescaped.into()
}

/// The groups of one run.
#[derive(Debug)]
pub(super) struct Group {
    /// One directory in each hierarchy that is needed.
    dirs: Vec<PathBuf>,
    /// Where out-of-memory kills are counted.
    events: Option<PathBuf>,
}

impl Group {
    /// Makes the groups that `limits` need and sets their limits; `None`
    /// where nothing is limited.
    pub(super) fn create(limits: &Limits) -> Result<Option<Self>, Failure> {
        if limits.is_empty() {
            return Ok(None);
        }
        let hierarchies = Hierarchies::find().tried("looking for control groups")?;
        Self::create_in(&hierarchies, limits, &name()).map(Some)
    }

    fn create_in(hierarchies: &Hierarchies, limits: &Limits, name: &str) -> Result<Self, Failure> {
        let parent = parent(limits.parent.as_deref())?;
        let writes = limits.writes(&|c| hierarchies.of(c).map(|(version, _)| version));
        let mut needed: BTreeMap<PathBuf, (Version, Vec<Controller>)> = BTreeMap::new();
        for write in &writes {
            let Some((version, mount)) = hierarchies.of(write.controller) else {
                return Err(Failure::Setup {
                    what: format!(
                        "limiting {}: there is no control group hierarchy for {}",
                        write.what,
                        write.controller.name()
                    ),
                    errno: libc::ENOENT,
                });
            };
            let entry = needed.entry(mount.to_owned());
            let (_, controllers) = entry.or_insert_with(|| (version, Vec::new()));
            if !controllers.contains(&write.controller) {
                controllers.push(write.controller);
            }
        }
        if needed.is_empty() {
            // Only a place was asked for.
            if let Some(unified) = &hierarchies.unified {
                needed.insert(unified.clone(), (Version::Two, Vec::new()));
            }
            for mount in hierarchies.own.values() {
                let own = (Version::One, Vec::new());
                needed.entry(mount.clone()).or_insert(own);
            }
        }
        let mut group = Self {
            dirs: Vec::new(),
            events: None,
        };
        let made = group.make(&needed, &parent, name).and_then(|()| {
            for write in &writes {
                if let Some((version, mount)) = hierarchies.of(write.controller) {
                    let dir = mount.join(&parent).join(name);
                    group.write(&dir, version, write)?;
                }
            }
            Ok(())
        });
        match made {
            Ok(()) => Ok(group),
            Err(failure) => {
                group.remove();
                Err(failure)
            }
        }
    }

    fn make(
        &mut self,
        needed: &BTreeMap<PathBuf, (Version, Vec<Controller>)>,
        parent: &Path,
        name: &str,
    ) -> Result<(), Failure> {
        for (mount, (version, controllers)) in needed {
            let above = mount.join(parent);
            let dir = above.join(name);
            // Another run that ends may take the parent away in between.
            let mut tries = 0;
            loop {
                fs::create_dir_all(&above)
                    .tried(format!("making the control group {}", above.display()))?;
                match fs::create_dir(&dir) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
                    made => {
                        made.tried(format!("making the control group {}", dir.display()))?;
                        break;
                    }
                }
            }
            self.dirs.push(dir.clone());
            sweep(&above);
            match version {
                Version::One if controllers.contains(&Controller::Cpuset) => {
                    inherit_cpuset(mount, &dir)?;
                }
                Version::One => {}
                Version::Two => enable(mount, &above, controllers)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, dir: &Path, version: Version, write: &Write) -> Result<(), Failure> {
        let path = dir.join(write.file);
        if write.controller == Controller::Memory {
            self.events = Some(dir.join(match version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            }));
        }
        match fs::write(&path, &write.value) {
            Err(_) if write.optional && !path.exists() => Ok(()),
            done => done.tried(format!(
                "limiting {} to {} (writing {})",
                write.what,
                write.value,
                path.display()
            )),
        }
    }

    /// Puts the calling process, which has one thread, into the groups.
    pub(super) fn join(&self) -> Result<(), Failure> {
        for dir in &self.dirs {
            let file = dir.join("cgroup.procs");
            fs::write(&file, "0")
                .tried(format!("joining the group (writing {})", file.display()))?;
        }
        Ok(())
    }

    /// Whether the kernel killed one of its processes for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let text = self
            .events
            .as_ref()
            .and_then(|e| fs::read_to_string(e).ok());
        oom_kills(&text.unwrap_or_default()) > 0
    }

    /// Removes the groups, which have no processes any more.
    pub(super) fn remove(&self) {
        let began = Instant::now();
        for dir in &self.dirs {
            while let Err(e) = fs::remove_dir(dir) {
                let busy = e.raw_os_error() == Some(libc::EBUSY);
                if !busy || began.elapsed() > PATIENCE {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // Only if it is ours, and the last one goes.
            if let Some(above) = dir.parent().filter(|p| p.ends_with(PARENT)) {
                let _ = fs::remove_dir(above);
            }
        }
    }
}

fn oom_kills(text: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// A name for the groups of one run.
fn name() -> String {
    let unique = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_nanos());
    format!("{PREFIX}{}-{unique}", std::process::id())
}

/// A group for a runtime to make, as a path from the top of the hierarchies.
pub(super) fn runtime_group(limits: &Limits) -> Result<String, Failure> {
    let parent = parent(limits.parent.as_deref())?;
    let path = Path::new("/").join(parent).join(name());
    Ok(path.to_string_lossy().into_owned())
}

/// Removes the group `path` from all hierarchies, where a runtime left it.
pub(super) fn remove_everywhere(path: &str) {
    let Ok(hierarchies) = Hierarchies::find() else {
        return;
    };
    let below = Path::new(path.trim_start_matches('/'));
    let dirs = hierarchies.points.iter().map(|point| point.join(below));
    let left = Group {
        dirs: dirs.filter(|dir| dir.is_dir()).collect(),
        events: None,
    };
    left.remove();
    for above in hierarchies
        .points
        .iter()
        .filter_map(|p| Some(p.join(below.parent()?)))
    {
        sweep(&above);
        if above.ends_with(PARENT) {
            let _ = fs::remove_dir(above);
        }
    }
}

/// The group that was asked for, as a path below a mount point.
fn parent(asked: Option<&str>) -> Result<PathBuf, Failure> {
    let Some(asked) = asked else {
        return Ok(PARENT.into());
    };
    let mut path = PathBuf::new();
    for part in Path::new(asked).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Failure::Setup {
                    what: format!("using the control group {asked:?}: it has .. in it"),
                    errno: libc::EINVAL,
                });
            }
        }
    }
    Ok(path)
}

/// Hands `controllers` down from the top of the unified hierarchy to the
/// children of `above`.
fn enable(mount: &Path, above: &Path, controllers: &[Controller]) -> Result<(), Failure> {
    let below = above.strip_prefix(mount).unwrap_or(Path::new(""));
    let mut dir = mount.to_owned();
    for part in std::iter::once(None).chain(below.components().map(Some)) {
        if let Some(part) = part {
            dir.push(part);
        }
        let file = dir.join("cgroup.subtree_control");
        let held = fs::read_to_string(&file).unwrap_or_default();
        for controller in controllers {
            if held.split_whitespace().any(|h| h == controller.name()) {
                continue;
            }
            let done = fs::write(&file, format!("+{}", controller.name()));
            let hint = match &done {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    "; the group has processes of its own: name an empty one with --cgroup-parent"
                }
                _ => "",
            };
            done.tried(format!(
                "enabling the {} controller (writing {}){hint}",
                controller.name(),
                file.display()
            ))?;
        }
    }
    Ok(())
}

/// A new group of the old kind has no CPU and no memory node until it is
/// given some: those of the group above.
fn inherit_cpuset(mount: &Path, dir: &Path) -> Result<(), Failure> {
    let below = dir.strip_prefix(mount).unwrap_or(Path::new(""));
    let mut dir = mount.to_owned();
    for part in below.components() {
        let above = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let what = || format!("setting up {}", dir.join(file).display());
                let value = fs::read_to_string(above.join(file)).tried(what())?;
                fs::write(dir.join(file), value.trim()).tried(what())?;
            }
        }
    }
    Ok(())
}

/// Removes groups of keepers that were killed.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| {
            n.strip_prefix(PREFIX)?
                .split('-')
                .next()?
                .parse::<u32>()
                .ok()
        });
        if pid.is_some_and(|pid| !is_alive(pid)) {
            // A group with processes in it stays: the kernel sees to that.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whether the process runs. One that has ended and that nobody asks for, as in
/// a container without an init, does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    // The name, in parentheses, may have anything in it.
    let state = stat.as_deref().ok().and_then(|s| s.rsplit_once(") "));
    state.is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_have_ended_are_not_alive() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let began = Instant::now();
        while is_alive(child.id()) && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // It still has its number.
        assert!(Path::new(&format!("/proc/{}", child.id())).exists());
        assert!(!is_alive(child.id()));
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }

    fn all() -> Limits {
        Limits {
            memory: Some(1 << 20),
            memory_swap: Some(Most::Of(3 << 20)),
            cpu_quota: Some(50_000),
            cpu_period: None,
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(Most::Of(30)),
            parent: None,
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 /docker/x /sys/fs/cgroup/me\\040mory rw,relatime - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(hybrid);
        assert_eq!(
            found.unified.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
        let own: Vec<_> = found.own.into_iter().collect();
        assert_eq!(
            own,
            [
                (Controller::Cpu, "/sys/fs/cgroup/cpu,cpuacct".into()),
                (Controller::Memory, "/sys/fs/cgroup/me mory".into()),
            ]
        );
        assert_eq!(Hierarchies::parse("nonsense\n"), Hierarchies::default());
    }

    #[test]
    fn the_unified_hierarchy_gets_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(
            root.join("cgroup.controllers"),
            "cpuset cpu io memory pids\n",
        )
        .unwrap();
        fs::write(root.join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        let hierarchies = Hierarchies {
            unified: Some(root.into()),
            own: BTreeMap::new(),
            points: Vec::new(),
        };
        let limits = Limits {
            parent: Some("/a/b".into()),
            ..all()
        };
        let group = Group::create_in(&hierarchies, &limits, "run-1-2").unwrap();
        let dir = root.join("a/b/run-1-2");
        assert_eq!(group.dirs, vec![dir.clone()]);
        for (file, value) in [
            ("memory.max", "1048576"),
            ("memory.swap.max", "2097152"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "39"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("pids.max", "30"),
        ] {
            assert_eq!(read(&dir.join(file)), value, "{file}");
        }
        // Each write replaces the file here, the kernel adds up.
        assert_eq!(read(&root.join("cgroup.subtree_control")), "+cpuset");
        assert_eq!(read(&root.join("a/cgroup.subtree_control")), "+pids");
        assert_eq!(read(&root.join("a/b/cgroup.subtree_control")), "+pids");
        fs::write(
            dir.join("memory.events"),
            "low 0\noom 1\noom_kill 1\noom_group_kill 0\n",
        )
        .unwrap();
        assert!(group.ran_out_of_memory());
        group.join().unwrap();
        assert_eq!(read(&dir.join("cgroup.procs")), "0");
    }

    #[test]
    fn single_hierarchies_get_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = BTreeMap::new();
        for controller in Controller::ALL {
            let mount = dir.path().join(controller.name());
            fs::create_dir(&mount).unwrap();
            own.insert(controller, mount);
        }
        let cpuset = dir.path().join("cpuset");
        fs::write(cpuset.join("cpuset.cpus"), "0-7\n").unwrap();
        fs::write(cpuset.join("cpuset.mems"), "0\n").unwrap();
        let hierarchies = Hierarchies {
            own,
            ..Hierarchies::default()
        };
        let group = Group::create_in(&hierarchies, &all(), "run-1-2").unwrap();
        assert_eq!(group.dirs.len(), 4);
        for (file, value) in [
            ("memory/shiplap/run-1-2/memory.limit_in_bytes", "1048576"),
            (
                "memory/shiplap/run-1-2/memory.memsw.limit_in_bytes",
                "3145728",
            ),
            ("cpu/shiplap/run-1-2/cpu.cfs_period_us", "100000"),
            ("cpu/shiplap/run-1-2/cpu.cfs_quota_us", "50000"),
            ("cpu/shiplap/run-1-2/cpu.shares", "1024"),
            ("cpuset/shiplap/cpuset.cpus", "0-7"),
            ("cpuset/shiplap/run-1-2/cpuset.cpus", "0-1"),
            ("cpuset/shiplap/run-1-2/cpuset.mems", "0"),
            ("pids/shiplap/run-1-2/pids.max", "30"),
        ] {
            assert_eq!(read(&dir.path().join(file)), value, "{file}");
        }
        assert!(!group.ran_out_of_memory());
    }

    #[test]
    fn what_cannot_be_limited_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let none = Hierarchies::default();
        let error = Group::create_in(&none, &all(), "run-1-2").unwrap_err();
        assert!(
            format!("{error:?}").contains("no control group hierarchy for memory"),
            "{error:?}"
        );
        fs::write(dir.path().join("pids"), "").unwrap();
        let file = Hierarchies {
            own: [(Controller::Pids, dir.path().join("pids"))].into(),
            ..Hierarchies::default()
        };
        let limits = Limits {
            pids: Some(Most::Unlimited),
            ..Limits::default()
        };
        assert!(Group::create_in(&file, &limits, "run-1-2").is_err());
        let limits = Limits {
            parent: Some("../x".into()),
            ..Limits::default()
        };
        assert!(Group::create_in(&none, &limits, "run-1-2").is_err());
    }

    #[test]
    fn limits_that_stand_alone() {
        let two = |_| Some(Version::Two);
        let one = |_| Some(Version::One);
        let show = |limits: &Limits, of: &dyn Fn(Controller) -> Option<Version>| -> Vec<String> {
            let writes = limits.writes(of);
            writes
                .iter()
                .map(|w| format!("{}={}", w.file, w.value))
                .collect()
        };
        let swap = Limits {
            memory: Some(100),
            ..Limits::default()
        };
        assert_eq!(show(&swap, &two), ["memory.max=100", "memory.swap.max=100"]);
        assert!(swap.writes(&two)[1].optional);
        let free = Limits {
            memory: Some(100),
            memory_swap: Some(Most::Unlimited),
            ..Limits::default()
        };
        assert_eq!(show(&free, &two), ["memory.max=100", "memory.swap.max=max"]);
        assert_eq!(
            show(&free, &one),
            [
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=-1"
            ]
        );
        let period = Limits {
            cpu_period: Some(20_000),
            ..Limits::default()
        };
        assert_eq!(show(&period, &two), ["cpu.max=max 20000"]);
        assert_eq!(
            show(&period, &one),
            ["cpu.cfs_period_us=20000", "cpu.cfs_quota_us=-1"]
        );
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
