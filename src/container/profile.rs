//! Profiles of system calls in the form that Docker and Podman read
//! (`--security-opt seccomp=FILE`), and the filters they mean.
//!
//! Rules apply or not by capability, architecture and kernel, so a profile is
//! first *resolved* for a process, and then compiled for each architecture.
//! Names that an architecture does not have are left out. Calls of an
//! architecture that the profile does not name do not exist (`ENOSYS`), nor do
//! those of the x32 ABI.
//!
//! # Specification
//! The JSON form of moby's `profiles/seccomp`; actions and operators as in
//! libseccomp and the runtime-spec's `config-linux.md#seccomp`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::capabilities::Capabilities;
use super::seccomp::{argument, code, give, load};
use crate::sys::seccomp::Instruction;

/// Calls of the x32 ABI have this bit.
const X32: u32 = 0x4000_0000;
/// The kernel's limit on the length of a filter.
const MOST_INSTRUCTIONS: usize = 4096;

/// A profile as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    default_errno_ret: Option<u32>,
    /// Architectures; all that there are where neither this nor `arch_map` is.
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// The older form of `names`.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

impl Action {
    /// What the kernel is to return.
    fn result(self, errno: Option<u32>) -> u32 {
        let data = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
        match self {
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Errno => libc::SECCOMP_RET_ERRNO | data,
            Self::Trace => libc::SECCOMP_RET_TRACE | data,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It has not the form of a profile.
    #[error("it is no seccomp profile: {0}")]
    Form(#[from] serde_json::Error),
    /// A call has six arguments.
    #[error("there is no argument {0} of a system call")]
    Argument(u32),
    /// The kernel takes no longer filters.
    #[error(
        "it is too long: the filter has {0} instructions, the kernel takes {MOST_INSTRUCTIONS}"
    )]
    Length(usize),
    /// A kernel version that is none.
    #[error("{0:?} is no kernel version")]
    Kernel(String),
}

/// A rule that applies to the process at hand, in the runtime-spec's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolved {
    pub(super) names: Vec<String>,
    pub(super) action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) args: Vec<Argument>,
}

/// A profile for a process, in the runtime-spec's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    pub(super) default_action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_errno_ret: Option<u32>,
    pub(super) architectures: Vec<String>,
    pub(super) syscalls: Vec<Resolved>,
}

impl Profile {
    /// Reads a profile and tries it for a process with `capabilities`.
    ///
    /// # Errors
    /// When it is no profile, or means no filter that the kernel takes.
    pub fn parse(json: &[u8], capabilities: &Capabilities) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_slice(json)?;
        for rule in profile.syscalls.iter().flatten() {
            for condition in [&rule.includes, &rule.excludes].into_iter().flatten() {
                if let Some(version) = &condition.min_kernel {
                    kernel(version).ok_or_else(|| ProfileError::Kernel(version.clone()))?;
                }
            }
            for argument in rule.args.iter().flatten() {
                if argument.index > 5 {
                    return Err(ProfileError::Argument(argument.index));
                }
            }
        }
        let length = profile.compile(capabilities).len();
        match length > MOST_INSTRUCTIONS {
            true => Err(ProfileError::Length(length)),
            false => Ok(profile),
        }
    }

    /// The filter for a process with `capabilities` on this kernel.
    pub(super) fn compile(&self, capabilities: &Capabilities) -> Vec<Instruction> {
        self.resolve_here(capabilities).compile()
    }

    /// The rules that apply to a process with `capabilities` on this kernel.
    pub(super) fn resolve_here(&self, capabilities: &Capabilities) -> Filter {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy().into_owned();
        let running = kernel(&release).unwrap_or((u32::MAX, 0));
        self.resolve(capabilities, running)
    }

    /// The rules that apply to a process with `capabilities` on `kernel`.
    fn resolve(&self, capabilities: &Capabilities, running: (u32, u32)) -> Filter {
        let applies = |rule: &Rule| {
            let none = Condition::default();
            let includes = rule.includes.as_ref().unwrap_or(&none);
            let excludes = rule.excludes.as_ref().unwrap_or(&none);
            let has = |cap: &String| capabilities.has(cap);
            let here = |arch: &String| machine::NAMES.contains(&arch.as_str());
            let reached = |version: &String| kernel(version).is_none_or(|v| running >= v);
            let arches = includes.arches.as_deref().unwrap_or_default();
            includes.caps.iter().flatten().all(has)
                && (arches.is_empty() || arches.iter().any(here))
                && includes.min_kernel.iter().all(reached)
                && !excludes.caps.iter().flatten().any(has)
                && !excludes.arches.iter().flatten().any(here)
                && !excludes.min_kernel.iter().any(reached)
        };
        let rules = self.syscalls.iter().flatten().filter(|r| applies(r));
        Filter {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            architectures: self.architectures(),
            syscalls: rules
                .map(|rule| Resolved {
                    names: rule
                        .names
                        .iter()
                        .flatten()
                        .chain(&rule.name)
                        .cloned()
                        .collect(),
                    action: rule.action,
                    errno_ret: rule.errno_ret,
                    args: rule.args.clone().unwrap_or_default(),
                })
                .collect(),
        }
    }

    fn architectures(&self) -> Vec<String> {
        let native = machine::TABLES.first().map_or("", |t| t.name);
        let mapped = self.arch_map.iter().flatten();
        let mapped = mapped.filter(|m| m.architecture == native).flat_map(|m| {
            std::iter::once(&m.architecture).chain(m.sub_architectures.iter().flatten())
        });
        let mut all: Vec<String> = self
            .architectures
            .iter()
            .flatten()
            .chain(mapped)
            .cloned()
            .collect();
        if all.is_empty() {
            all.extend(machine::TABLES.iter().map(|t| t.name.to_owned()));
        }
        all
    }
}

/// `5.10.3-x` as numbers.
fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Filter {
    /// As a program for the kernel.
    pub(super) fn compile(&self) -> Vec<Instruction> {
        const ARCHITECTURE: u32 = 4;
        let mut program = vec![load(ARCHITECTURE)];
        for table in machine::TABLES {
            if !self.architectures.iter().any(|a| a == table.name) {
                continue;
            }
            let part = self.calls(table);
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            program.push(code(equal, 1, 0, table.architecture));
            program.push(skip(part.len()));
            program.extend(part);
        }
        program.push(give(Action::Errno.result(Some(libc::ENOSYS as u32))));
        program
    }

    /// The part for one architecture; every way through it ends with a result.
    fn calls(&self, table: &Table) -> Vec<Instruction> {
        const NUMBER: u32 = 0;
        let otherwise = self.default_action.result(self.default_errno_ret);
        let mut fixed: BTreeMap<u32, u32> = BTreeMap::new();
        let mut asking: BTreeMap<u32, Vec<(&[Argument], u32)>> = BTreeMap::new();
        for rule in &self.syscalls {
            let result = rule.action.result(rule.errno_ret);
            for number in rule.names.iter().filter_map(|n| (table.number)(n)) {
                if rule.args.is_empty() {
                    fixed.entry(number).or_insert(result);
                } else {
                    asking.entry(number).or_default().push((&rule.args, result));
                }
            }
        }
        let mut part = vec![load(NUMBER)];
        let above = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
        part.push(code(above, 0, 1, X32));
        part.push(give(Action::Errno.result(Some(libc::ENOSYS as u32))));
        for (number, rules) in asking {
            let rest = fixed.get(&number).copied().unwrap_or(otherwise);
            let mut block: Vec<Instruction> = Vec::new();
            for (arguments, result) in rules {
                block.extend(rule(arguments, result));
            }
            block.push(give(rest));
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            part.push(code(equal, 1, 0, number));
            part.push(skip(block.len()));
            part.extend(block);
        }
        let greater = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
        for (last, result) in ranges(&fixed, otherwise) {
            part.push(code(greater, 1, 0, last));
            part.push(give(result));
        }
        part.push(give(otherwise));
        part
    }
}

/// The results of all numbers as ranges: the last number of each, and what
/// it gives; in order, without what comes after the last fixed one.
fn ranges(fixed: &BTreeMap<u32, u32>, otherwise: u32) -> Vec<(u32, u32)> {
    let mut all: Vec<(u32, u32)> = Vec::new();
    let mut next = 0;
    let mut add = |last: u32, result: u32| match all.last_mut() {
        Some((end, same)) if *same == result => *end = last,
        _ => all.push((last, result)),
    };
    for (number, result) in fixed {
        if *number > next {
            add(number - 1, otherwise);
        }
        add(*number, *result);
        next = number + 1;
    }
    all
}

/// Leaves out `count` instructions.
const fn skip(count: usize) -> Instruction {
    code(libc::BPF_JMP | libc::BPF_JA, 0, 0, count as u32)
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum Go {
    /// The next instruction.
    On,
    /// It is true: the next comparison.
    Yes,
    /// It is false: the next rule.
    No,
}

/// Gives `result` when all of `arguments` are as they are to be.
fn rule(arguments: &[Argument], result: u32) -> Vec<Instruction> {
    let comparisons: Vec<Vec<(Instruction, Go, Go)>> = arguments.iter().map(compare).collect();
    let length: usize = comparisons.iter().map(Vec::len).sum();
    let mut block: Vec<Instruction> = Vec::new();
    let mut end = 0;
    for comparison in comparisons {
        end += comparison.len();
        for (mut instruction, yes, no) in comparison {
            let here = block.len() + 1;
            // At most six arguments of ten instructions: it fits.
            let distance = |go| match go {
                Go::On => 0,
                Go::Yes => (end - here) as u8,
                Go::No => (length + 1 - here) as u8,
            };
            if u32::from(instruction.code) & 0x07 == libc::BPF_JMP {
                instruction.jt = distance(yes);
                instruction.jf = distance(no);
            }
            block.push(instruction);
        }
    }
    block.push(give(result));
    block
}

/// Compares one argument, 64 bits in two halves.
fn compare(argument_is: &Argument) -> Vec<(Instruction, Go, Go)> {
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let low = argument(argument_is.index);
    let (low, high) = (load(low), load(low + 4));
    let (high_value, low_value) = halves(argument_is.value);
    let step = |instruction| (instruction, Go::On, Go::On);
    let jump = |kind, value, yes, no| {
        let jump = libc::BPF_JMP | kind | libc::BPF_K;
        (code(jump, 0, 0, value), yes, no)
    };
    let equal = |value, yes, no| jump(libc::BPF_JEQ, value, yes, no);
    let greater = |value, yes, no| jump(libc::BPF_JGT, value, yes, no);
    let at_least = |value, yes, no| jump(libc::BPF_JGE, value, yes, no);
    let and = |mask| {
        let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        step(code(and, 0, 0, mask))
    };
    match argument_is.op {
        Operator::Equal => vec![
            step(high),
            equal(high_value, Go::On, Go::No),
            step(low),
            equal(low_value, Go::Yes, Go::No),
        ],
        Operator::NotEqual => vec![
            step(high),
            equal(high_value, Go::On, Go::Yes),
            step(low),
            equal(low_value, Go::No, Go::Yes),
        ],
        Operator::Greater => vec![
            step(high),
            greater(high_value, Go::Yes, Go::On),
            equal(high_value, Go::On, Go::No),
            step(low),
            greater(low_value, Go::Yes, Go::No),
        ],
        Operator::GreaterOrEqual => vec![
            step(high),
            greater(high_value, Go::Yes, Go::On),
            equal(high_value, Go::On, Go::No),
            step(low),
            at_least(low_value, Go::Yes, Go::No),
        ],
        Operator::Less => vec![
            step(high),
            greater(high_value, Go::No, Go::On),
            equal(high_value, Go::On, Go::Yes),
            step(low),
            at_least(low_value, Go::No, Go::Yes),
        ],
        Operator::LessOrEqual => vec![
            step(high),
            greater(high_value, Go::No, Go::On),
            equal(high_value, Go::On, Go::Yes),
            step(low),
            greater(low_value, Go::No, Go::Yes),
        ],
        Operator::MaskedEqual => {
            let (high_mask, low_mask) = (high_value, low_value);
            let (high_value, low_value) = halves(argument_is.value_two);
            vec![
                step(high),
                and(high_mask),
                equal(high_value, Go::On, Go::No),
                step(low),
                and(low_mask),
                equal(low_value, Go::Yes, Go::No),
            ]
        }
    }
}

/// One architecture's names.
pub(super) struct Table {
    /// As profiles call it.
    pub(super) name: &'static str,
    /// `AUDIT_ARCH_*`.
    architecture: u32,
    /// The number of a call, where it has one.
    number: fn(&str) -> Option<u32>,
    /// Numbers and names of all calls.
    pub(super) names: fn() -> Vec<(u32, &'static str)>,
}

#[cfg(target_arch = "x86_64")]
pub(super) mod machine {
    use super::Table;

    /// What conditions call this architecture.
    pub(super) const NAMES: [&str; 1] = ["amd64"];

    /// The kernel's own first.
    pub(in super::super) const TABLES: &[Table] = &[
        Table {
            name: "SCMP_ARCH_X86_64",
            architecture: 0xc000_003e,
            number: |name| Some(name.parse::<syscalls::x86_64::Sysno>().ok()? as u32),
            names: || {
                syscalls::x86_64::Sysno::iter()
                    .map(|s| (s as u32, s.name()))
                    .collect()
            },
        },
        Table {
            name: "SCMP_ARCH_X86",
            architecture: 0x4000_0003,
            number: |name| Some(name.parse::<syscalls::x86::Sysno>().ok()? as u32),
            names: || {
                syscalls::x86::Sysno::iter()
                    .map(|s| (s as u32, s.name()))
                    .collect()
            },
        },
    ];
}

#[cfg(target_arch = "aarch64")]
pub(super) mod machine {
    use super::Table;

    /// What conditions call this architecture.
    pub(super) const NAMES: [&str; 1] = ["arm64"];

    /// The kernel's own.
    pub(in super::super) const TABLES: &[Table] = &[Table {
        name: "SCMP_ARCH_AARCH64",
        architecture: 0xc000_00b7,
        number: |name| Some(name.parse::<syscalls::aarch64::Sysno>().ok()? as u32),
        names: || {
            syscalls::aarch64::Sysno::iter()
                .map(|s| (s as u32, s.name()))
                .collect()
        },
    }];
}

#[cfg(test)]
mod tests {
    use super::super::seccomp::tests::run;
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const NO: u32 = libc::SECCOMP_RET_ERRNO;

    fn here() -> u32 {
        machine::TABLES[0].architecture
    }

    fn number(name: &str) -> u32 {
        (machine::TABLES[0].number)(name).unwrap()
    }

    fn compiled(json: &str, capabilities: &Capabilities) -> Vec<Instruction> {
        let profile = Profile::parse(json.as_bytes(), capabilities).unwrap();
        let again = serde_json::to_vec(&profile).unwrap();
        assert_eq!(serde_json::from_slice::<Profile>(&again).unwrap(), profile);
        profile.compile(capabilities)
    }

    #[test]
    fn rules_apply_by_capability_architecture_and_kernel() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "unknown": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
            "syscalls": [
              {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": ""},
              {"name": "openat", "action": "SCMP_ACT_ALLOW"},
              {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "3.0"}},
              {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
              {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
              {"names": ["acct"], "action": "SCMP_ACT_KILL_PROCESS", "includes": {"arches": ["amd64", "arm64"]}}
            ]}"#;
        let usual = compiled(json, &Capabilities::default());
        let all = compiled(json, &Capabilities::all());
        for (name, result, with_all) in [
            ("read", ALLOW, ALLOW),
            ("write", ALLOW, ALLOW),
            ("openat", ALLOW, ALLOW),
            ("mount", NO | 1, ALLOW),
            ("ptrace", ALLOW, ALLOW),
            ("kcmp", NO | 38, NO | 38),
            ("bpf", NO | 38, NO | 38),
            (
                "acct",
                libc::SECCOMP_RET_KILL_PROCESS,
                libc::SECCOMP_RET_KILL_PROCESS,
            ),
            ("close", NO | 38, NO | 38),
        ] {
            assert_eq!(run(&usual, here(), number(name), [0; 3]), result, "{name}");
            assert_eq!(run(&all, here(), number(name), [0; 3]), with_all, "{name}");
        }
        // Another architecture, x32, and a call that nobody knows.
        assert_eq!(run(&usual, 1, 0, [0; 3]), NO | 38);
        assert_eq!(run(&usual, here(), X32, [0; 3]), NO | 38);
        assert_eq!(run(&usual, here(), 5000, [0; 3]), NO | 38);
    }

    #[test]
    fn arguments_are_compared() {
        let table = [
            ("SCMP_CMP_EQ", 0, [false, true, false]),
            ("SCMP_CMP_NE", 0, [true, false, true]),
            ("SCMP_CMP_LT", 0, [true, false, false]),
            ("SCMP_CMP_LE", 0, [true, true, false]),
            ("SCMP_CMP_GE", 0, [false, true, true]),
            ("SCMP_CMP_GT", 0, [false, false, true]),
            // 4 and 5 have the bit 4, 6 too; 4 & 5 = 4.
            ("SCMP_CMP_MASKED_EQ", 4, [true, false, true]),
        ];
        for (op, two, expected) in table {
            let json = format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["dup2"], "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 1, "value": 5, "valueTwo": {two}, "op": "{op}"}},
                             {{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}]}},
                   {{"names": ["dup2"], "action": "SCMP_ACT_TRAP",
                    "args": [{{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}}]}}]}}"#
            );
            let program = compiled(&json, &Capabilities::default());
            let dup2 = (machine::TABLES[0].number)("dup2").unwrap_or(9999);
            for (value, allowed) in [4, 5, 6].into_iter().zip(expected) {
                let result = run(&program, here(), dup2, [1, value, 0]);
                assert_eq!(result == ALLOW, allowed, "{op} {value}");
                assert_eq!(run(&program, here(), dup2, [2, value, 0]), NO | 1);
                assert_eq!(
                    run(&program, here(), dup2, [7, value, 0]),
                    libc::SECCOMP_RET_TRAP
                );
            }
        }
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let none = Capabilities::none();
        for json in [
            "",
            "[]",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_DANCE"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "includes": {"minKernel": "new"}}]}"#,
        ] {
            assert!(Profile::parse(json.as_bytes(), &none).is_err(), "{json}");
        }
        let empty = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
        let program = compiled(empty, &none);
        assert_eq!(run(&program, here(), 5000, [0; 3]), ALLOW);
    }
}
