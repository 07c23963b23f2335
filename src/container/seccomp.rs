//! Which system calls a process may make: the same effect as Docker's default
//! profile, given the same capabilities.
//!
//! Docker's profile lists what is allowed. Nearly every call is, so this one
//! lists what is refused, up to the newest call it knows; later ones do not
//! exist for the process (`ENOSYS`), and programs fall back to older ones.
//! A refused call that belongs to a capability is allowed with it.
//!
//! # Specification
//! `seccomp(2)`; classic BPF over `struct seccomp_data`. Calls of another
//! architecture than the kernel's do not exist, but for 32-bit x86 programs on
//! 64-bit x86.

use std::collections::BTreeSet;

use super::profile::{self, Action, Argument, Filter, Operator, Resolved};
use crate::sys::seccomp::Instruction;

/// Capability numbers that lift a refusal, as bits.
mod lift {
    pub(super) const NOTHING: u64 = 0;
    pub(super) const DAC_READ_SEARCH: u64 = 1 << 2;
    pub(super) const SYS_MODULE: u64 = 1 << 16;
    pub(super) const SYS_RAWIO: u64 = 1 << 17;
    pub(super) const SYS_CHROOT: u64 = 1 << 18;
    pub(super) const SYS_PTRACE: u64 = 1 << 19;
    pub(super) const SYS_PACCT: u64 = 1 << 20;
    pub(super) const SYS_ADMIN: u64 = 1 << 21;
    pub(super) const SYS_BOOT: u64 = 1 << 22;
    pub(super) const SYS_NICE: u64 = 1 << 23;
    pub(super) const SYS_TIME: u64 = 1 << 25;
    pub(super) const SYS_TTY_CONFIG: u64 = 1 << 26;
    pub(super) const SYSLOG: u64 = 1 << 34;
    pub(super) const PERFMON: u64 = 1 << 38;
    pub(super) const BPF: u64 = 1 << 39;
}

/// The newest call known here, `removexattrat`; the number is the same on all
/// architectures.
const NEWEST: u32 = 466;

/// `clone3` is not there: its flags are in memory, where no filter can look.
const CLONE3: u32 = 435;

/// Flags of `clone` that make namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// Execution domains that programs have a use for; the last one asks.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The kernel's ciphers, which had a way to write to files of others
/// (CVE-2026-31431), and the host's side of a virtual machine.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];
/// Types on somebody's terminal, and pastes into the console.
const TERMINAL_TRICKS: [u32; 2] = [0x5412, 0x541c];

/// One architecture's numbers.
struct Table {
    /// `AUDIT_ARCH_*`.
    architecture: u32,
    /// Number of a refused call, and the capabilities that lift the refusal.
    refused: &'static [(u32, u64)],
    clone: u32,
    personality: u32,
    ioctl: u32,
    socket: u32,
    /// `prlimit64`, and the calls that change priorities and processors, each
    /// with the argument that says of which process.
    others: [(u32, u32); 7],
}

const fn n(number: libc::c_long) -> u32 {
    number as u32
}

/// See [`Table::others`].
const OTHERS: [(u32, u32); 7] = [
    (n(libc::SYS_prlimit64), 0),
    (n(libc::SYS_setpriority), 1),
    (n(libc::SYS_sched_setparam), 0),
    (n(libc::SYS_sched_setscheduler), 0),
    (n(libc::SYS_sched_setaffinity), 0),
    (n(libc::SYS_ioprio_set), 1),
    (n(libc::SYS_sched_setattr), 0),
];

/// The same everywhere.
const COMMON: &[(u32, u64)] = &[
    (n(libc::SYS_io_uring_setup), lift::NOTHING),
    (n(libc::SYS_io_uring_enter), lift::NOTHING),
    (n(libc::SYS_io_uring_register), lift::NOTHING),
    (n(libc::SYS_open_tree), lift::SYS_ADMIN),
    (n(libc::SYS_move_mount), lift::SYS_ADMIN),
    (n(libc::SYS_fsopen), lift::SYS_ADMIN),
    (n(libc::SYS_fsconfig), lift::SYS_ADMIN),
    (n(libc::SYS_fsmount), lift::SYS_ADMIN),
    (n(libc::SYS_fspick), lift::SYS_ADMIN),
    (n(libc::SYS_pidfd_getfd), lift::SYS_PTRACE),
    (n(libc::SYS_process_madvise), lift::SYS_PTRACE),
    (n(libc::SYS_mount_setattr), lift::SYS_ADMIN),
    (443, lift::SYS_ADMIN), // quotactl_fd
    (450, lift::SYS_NICE),  // set_mempolicy_home_node
    (459, lift::SYS_ADMIN), // lsm_get_self_attr
    (460, lift::SYS_ADMIN), // lsm_set_self_attr
    (461, lift::SYS_ADMIN), // lsm_list_modules
];

/// Numbers of the architecture this is compiled for.
const NATIVE: &[(u32, u64)] = &[
    (n(libc::SYS_mount), lift::SYS_ADMIN),
    (n(libc::SYS_umount2), lift::SYS_ADMIN),
    (n(libc::SYS_pivot_root), lift::NOTHING),
    (n(libc::SYS_unshare), lift::SYS_ADMIN),
    (n(libc::SYS_setns), lift::SYS_ADMIN),
    (n(libc::SYS_chroot), lift::SYS_CHROOT),
    (n(libc::SYS_open_by_handle_at), lift::DAC_READ_SEARCH),
    (n(libc::SYS_bpf), lift::SYS_ADMIN | lift::BPF),
    (
        n(libc::SYS_perf_event_open),
        lift::SYS_ADMIN | lift::PERFMON,
    ),
    (n(libc::SYS_userfaultfd), lift::NOTHING),
    (n(libc::SYS_fanotify_init), lift::SYS_ADMIN),
    (n(libc::SYS_lookup_dcookie), lift::SYS_ADMIN),
    (n(libc::SYS_quotactl), lift::SYS_ADMIN),
    (n(libc::SYS_sethostname), lift::SYS_ADMIN),
    (n(libc::SYS_setdomainname), lift::SYS_ADMIN),
    (n(libc::SYS_syslog), lift::SYS_ADMIN | lift::SYSLOG),
    (n(libc::SYS_add_key), lift::NOTHING),
    (n(libc::SYS_request_key), lift::NOTHING),
    (n(libc::SYS_keyctl), lift::NOTHING),
    (n(libc::SYS_kexec_load), lift::NOTHING),
    (n(libc::SYS_kexec_file_load), lift::NOTHING),
    (n(libc::SYS_init_module), lift::SYS_MODULE),
    (n(libc::SYS_finit_module), lift::SYS_MODULE),
    (n(libc::SYS_delete_module), lift::SYS_MODULE),
    (n(libc::SYS_kcmp), lift::SYS_PTRACE),
    (n(libc::SYS_reboot), lift::SYS_BOOT),
    (n(libc::SYS_swapon), lift::NOTHING),
    (n(libc::SYS_swapoff), lift::NOTHING),
    (n(libc::SYS_acct), lift::SYS_PACCT),
    (n(libc::SYS_settimeofday), lift::SYS_TIME),
    (n(libc::SYS_clock_settime), lift::SYS_TIME),
    (n(libc::SYS_vhangup), lift::SYS_TTY_CONFIG),
    (n(libc::SYS_mbind), lift::SYS_NICE),
    (n(libc::SYS_get_mempolicy), lift::SYS_NICE),
    (n(libc::SYS_set_mempolicy), lift::SYS_NICE),
    (n(libc::SYS_migrate_pages), lift::NOTHING),
    (n(libc::SYS_move_pages), lift::NOTHING),
    (n(libc::SYS_nfsservctl), lift::NOTHING),
];

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::{Table, lift, n};

    /// `AUDIT_ARCH_X86_64`.
    const HERE: u32 = 0xc000_003e;
    /// `AUDIT_ARCH_I386`.
    const COMPATIBLE: u32 = 0x4000_0003;

    /// Only on this architecture.
    pub(super) const MORE: &[(u32, u64)] = &[
        (n(libc::SYS_iopl), lift::SYS_RAWIO),
        (n(libc::SYS_ioperm), lift::SYS_RAWIO),
        (n(libc::SYS_uselib), lift::NOTHING),
        (n(libc::SYS_ustat), lift::NOTHING),
        (n(libc::SYS_sysfs), lift::NOTHING),
        (n(libc::SYS__sysctl), lift::NOTHING),
    ];

    pub(super) const TABLES: &[Table] = &[
        Table {
            architecture: HERE,
            refused: super::NATIVE,
            clone: n(libc::SYS_clone),
            personality: n(libc::SYS_personality),
            ioctl: n(libc::SYS_ioctl),
            socket: n(libc::SYS_socket),
            others: super::OTHERS,
        },
        Table {
            architecture: COMPATIBLE,
            refused: &[
                (21, lift::SYS_ADMIN),                  // mount
                (22, lift::SYS_ADMIN),                  // umount
                (25, lift::SYS_TIME),                   // stime
                (51, lift::SYS_PACCT),                  // acct
                (52, lift::SYS_ADMIN),                  // umount2
                (61, lift::SYS_CHROOT),                 // chroot
                (62, lift::NOTHING),                    // ustat
                (74, lift::SYS_ADMIN),                  // sethostname
                (79, lift::SYS_TIME),                   // settimeofday
                (86, lift::NOTHING),                    // uselib
                (87, lift::NOTHING),                    // swapon
                (88, lift::SYS_BOOT),                   // reboot
                (101, lift::SYS_RAWIO),                 // ioperm
                (103, lift::SYS_ADMIN | lift::SYSLOG),  // syslog
                (110, lift::SYS_RAWIO),                 // iopl
                (111, lift::SYS_TTY_CONFIG),            // vhangup
                (113, lift::NOTHING),                   // vm86old
                (115, lift::NOTHING),                   // swapoff
                (121, lift::SYS_ADMIN),                 // setdomainname
                (128, lift::SYS_MODULE),                // init_module
                (129, lift::SYS_MODULE),                // delete_module
                (131, lift::SYS_ADMIN),                 // quotactl
                (135, lift::NOTHING),                   // sysfs
                (149, lift::NOTHING),                   // _sysctl
                (166, lift::NOTHING),                   // vm86
                (169, lift::NOTHING),                   // nfsservctl
                (217, lift::NOTHING),                   // pivot_root
                (253, lift::SYS_ADMIN),                 // lookup_dcookie
                (264, lift::SYS_TIME),                  // clock_settime
                (274, lift::SYS_NICE),                  // mbind
                (275, lift::SYS_NICE),                  // get_mempolicy
                (276, lift::SYS_NICE),                  // set_mempolicy
                (283, lift::NOTHING),                   // kexec_load
                (286, lift::NOTHING),                   // add_key
                (287, lift::NOTHING),                   // request_key
                (288, lift::NOTHING),                   // keyctl
                (294, lift::NOTHING),                   // migrate_pages
                (310, lift::SYS_ADMIN),                 // unshare
                (317, lift::NOTHING),                   // move_pages
                (336, lift::SYS_ADMIN | lift::PERFMON), // perf_event_open
                (338, lift::SYS_ADMIN),                 // fanotify_init
                (342, lift::DAC_READ_SEARCH),           // open_by_handle_at
                (346, lift::SYS_ADMIN),                 // setns
                (349, lift::SYS_PTRACE),                // kcmp
                (350, lift::SYS_MODULE),                // finit_module
                (357, lift::SYS_ADMIN | lift::BPF),     // bpf
                (374, lift::NOTHING),                   // userfaultfd
                (404, lift::SYS_TIME),                  // clock_settime64
            ],
            clone: 120,
            personality: 136,
            ioctl: 54,
            socket: 359,
            others: [
                (340, 0), // prlimit64
                (97, 1),  // setpriority
                (154, 0), // sched_setparam
                (156, 0), // sched_setscheduler
                (241, 0), // sched_setaffinity
                (289, 1), // ioprio_set
                (351, 0), // sched_setattr
            ],
        },
    ];
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::{Table, n};

    /// `AUDIT_ARCH_AARCH64`.
    const HERE: u32 = 0xc000_00b7;

    /// Only on this architecture.
    pub(super) const MORE: &[(u32, u64)] = &[];

    pub(super) const TABLES: &[Table] = &[Table {
        architecture: HERE,
        refused: super::NATIVE,
        clone: n(libc::SYS_clone),
        personality: n(libc::SYS_personality),
        ioctl: n(libc::SYS_ioctl),
        socket: n(libc::SYS_socket),
        others: super::OTHERS,
    }];
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of argument `index`, little-endian.
pub(super) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

pub(super) const fn load(offset: u32) -> Instruction {
    code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

pub(super) const fn give(result: u32) -> Instruction {
    code(libc::BPF_RET | libc::BPF_K, 0, 0, result)
}

/// Goes on when equal, otherwise leaves out `skip` instructions.
const fn if_equal(value: u32, skip: u8) -> Instruction {
    code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value)
}

pub(super) const fn code(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// The filter for a process whose capabilities can be at most `capabilities`.
pub(super) fn filter(capabilities: u64) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for (index, table) in machine::TABLES.iter().enumerate() {
        let more = if index == 0 { machine::MORE } else { &[] };
        let part = calls(table, more, capabilities);
        // Over the jump into the part, or by the jump over it.
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(code(equal, 1, 0, table.architecture));
        let always = libc::BPF_JMP | libc::BPF_JA;
        program.push(code(always, 0, 0, part.len() as u32));
        program.extend(part);
    }
    program.push(give(ENOSYS));
    program
}

/// A filter for which the calls with these numbers do not exist.
pub(super) fn without(numbers: &[libc::c_long]) -> Vec<Instruction> {
    answering(numbers, ENOSYS)
}

/// A filter for which giving files and itself to others does nothing, and
/// says that it went well: for processes in a user namespace with one id.
pub(super) fn pretending() -> Vec<Instruction> {
    const SUCCESS: u32 = libc::SECCOMP_RET_ERRNO;
    #[cfg(target_arch = "x86_64")]
    let numbers = [
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_setgroups,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let numbers = [libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_setgroups];
    answering(&numbers, SUCCESS)
}

/// A filter for processes that share the process tree with the builder: the
/// kernel lets a user set limits of, and slow down, all processes of the same
/// user, and Landlock has nothing against it. With it a process may do that to
/// itself only.
pub(super) fn to_oneself_only() -> Vec<Instruction> {
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = vec![load(ARCHITECTURE)];
    for table in machine::TABLES {
        let mut part = vec![load(NUMBER)];
        for (number, index) in table.others {
            part.extend([
                if_equal(number, 4),
                load(argument(index)),
                code(equal, 0, 1, 0),
                give(ALLOW),
                give(EPERM),
            ]);
        }
        part.push(give(ALLOW));
        program.push(code(equal, 0, part.len() as u8, table.architecture));
        program.extend(part);
    }
    program.push(give(ALLOW));
    program
}

/// Gives `answer` to calls of the usual architecture with these numbers.
fn answering(numbers: &[libc::c_long], answer: u32) -> Vec<Instruction> {
    let here = machine::TABLES.first().map_or(0, |t| t.architecture);
    let mut program = vec![
        load(ARCHITECTURE),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, here),
        give(ALLOW),
        load(NUMBER),
    ];
    for number in numbers {
        program.extend([if_equal(n(*number), 1), give(answer)]);
    }
    program.push(give(ALLOW));
    program
}

/// The same as rules with names, for an OCI runtime. What runtimes cannot say
/// is left out: that a terminal takes no typing, which needs one in the first
/// place.
pub(super) fn as_filter(capabilities: u64) -> Filter {
    let admin = capabilities & lift::SYS_ADMIN != 0;
    let rule = |names: Vec<String>, action, errno_ret, args| Resolved {
        names,
        action,
        errno_ret,
        args,
    };
    let argument = |op, value, value_two| Argument {
        index: 0,
        value,
        value_two,
        op,
    };
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for (index, (table, names)) in machine::TABLES
        .iter()
        .zip(profile::machine::TABLES)
        .enumerate()
    {
        let more = if index == 0 { machine::MORE } else { &[] };
        let all = table.refused.iter().chain(COMMON).chain(more);
        let no: BTreeSet<u32> = all
            .filter(|(_, lifted_by)| capabilities & lifted_by == 0)
            .map(|(number, _)| *number)
            .collect();
        for (number, name) in (names.names)() {
            let own = matches!(name, "personality" | "socket")
                || !admin && matches!(name, "clone" | "clone3");
            if number > NEWEST || own {
                continue;
            }
            match no.contains(&number) {
                true => refused.insert(name.to_owned()),
                false => allowed.insert(name.to_owned()),
            };
        }
    }
    allowed.retain(|name| !refused.contains(name));
    let eperm = Some(libc::EPERM as u32);
    let mut rules = vec![
        rule(
            allowed.into_iter().collect(),
            Action::Allow,
            None,
            Vec::new(),
        ),
        rule(
            refused.into_iter().collect(),
            Action::Errno,
            eperm,
            Vec::new(),
        ),
    ];
    for value in PERSONALITIES {
        let equal = vec![argument(Operator::Equal, value.into(), 0)];
        rules.push(rule(vec!["personality".into()], Action::Allow, None, equal));
    }
    let [low, high] = REFUSED_FAMILIES.map(u64::from);
    for (op, value) in [
        (Operator::Less, low),
        (Operator::Equal, low + 1),
        (Operator::Greater, high),
    ] {
        let range = vec![argument(op, value, 0)];
        rules.push(rule(vec!["socket".into()], Action::Allow, None, range));
    }
    if !admin {
        let flags = vec![argument(Operator::MaskedEqual, NEW_NAMESPACES.into(), 0)];
        rules.push(rule(vec!["clone".into()], Action::Allow, None, flags));
    }
    Filter {
        default_action: Action::Errno,
        default_errno_ret: Some(libc::ENOSYS as u32),
        architectures: profile::machine::TABLES
            .iter()
            .map(|t| t.name.to_owned())
            .collect(),
        syscalls: rules,
    }
}

/// The part for one architecture; every way through it ends with a result.
fn calls(table: &Table, more: &[(u32, u64)], capabilities: u64) -> Vec<Instruction> {
    let mut part = vec![load(NUMBER)];
    let greater = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    part.extend([code(greater, 0, 1, NEWEST), give(ENOSYS)]);
    let admin = capabilities & lift::SYS_ADMIN != 0;
    if !admin {
        part.extend([if_equal(CLONE3, 1), give(ENOSYS)]);
        let set = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
        part.extend([
            if_equal(table.clone, 4),
            load(argument(0)),
            code(set, 0, 1, NEW_NAMESPACES),
            give(EPERM),
            give(ALLOW),
        ]);
    }
    for (number, lifted_by) in table.refused.iter().chain(COMMON).chain(more) {
        if capabilities & lifted_by == 0 {
            part.extend([if_equal(*number, 1), give(EPERM)]);
        }
    }
    let one_of = |number, index, values: &[u32], found, otherwise| {
        let mut block = vec![load(argument(index))];
        for value in values {
            block.extend([if_equal(*value, 1), give(found)]);
        }
        block.push(give(otherwise));
        block.insert(0, if_equal(number, block.len() as u8));
        block
    };
    part.extend(one_of(table.personality, 0, &PERSONALITIES, ALLOW, EPERM));
    part.extend(one_of(table.socket, 0, &REFUSED_FAMILIES, EPERM, ALLOW));
    part.extend(one_of(table.ioctl, 1, &TERMINAL_TRICKS, EPERM, ALLOW));
    part.push(give(ALLOW));
    part
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs the program as the kernel would; upper halves of arguments are 0.
    pub(in super::super) fn run(
        program: &[Instruction],
        architecture: u32,
        number: u32,
        args: [u32; 3],
    ) -> u32 {
        let word = |offset| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            offset if offset % 8 == 4 => 0,
            offset => args[(offset as usize - 16) / 8],
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let i = &program[at];
            at += 1;
            let jump = |yes| if yes { i.jt } else { i.jf } as usize;
            match u32::from(i.code) {
                0x20 => value = word(i.k),
                0x06 => return i.k,
                0x05 => at += i.k as usize,
                0x15 => at += jump(value == i.k),
                0x25 => at += jump(value > i.k),
                0x35 => at += jump(value >= i.k),
                0x54 => value &= i.k,
                0x45 => at += jump(value & i.k != 0),
                other => panic!("instruction {other:x}"),
            }
        }
    }

    #[test]
    fn others_keep_their_limits() {
        let program = to_oneself_only();
        for table in machine::TABLES {
            let judge = |number, args| run(&program, table.architecture, number, args);
            for (number, index) in table.others {
                let mut args = [0, 0, 5];
                assert_eq!(judge(number, args), ALLOW);
                args[index as usize] = 1;
                assert_eq!(judge(number, args), EPERM);
            }
            assert_eq!(judge(table.ioctl, [1, 1, 1]), ALLOW);
        }
        assert_eq!(run(&program, 1, OTHERS[0].0, [1, 1, 1]), ALLOW);
    }

    #[test]
    fn calls_are_judged_as_docker_does() {
        let usual = filter(0xa804_25fb);
        let admin = filter(0xa804_25fb | lift::SYS_ADMIN);
        assert!(usual.len() < 4096);
        let here = machine::TABLES[0].architecture;
        let no = [0; 3];
        for (number, args, result, as_admin) in [
            (n(libc::SYS_read), no, ALLOW, ALLOW),
            (n(libc::SYS_ptrace), no, ALLOW, ALLOW),
            (n(libc::SYS_chroot), no, ALLOW, ALLOW),
            (n(libc::SYS_mount), no, EPERM, ALLOW),
            (n(libc::SYS_keyctl), no, EPERM, EPERM),
            (n(libc::SYS_bpf), no, EPERM, ALLOW),
            (n(libc::SYS_io_uring_setup), no, EPERM, EPERM),
            (n(libc::SYS_clone), [17, 0, 0], ALLOW, ALLOW),
            (n(libc::SYS_clone), [0x1000_0000, 0, 0], EPERM, ALLOW),
            (n(libc::SYS_clone), [0x0200_0000, 0, 0], EPERM, ALLOW),
            (CLONE3, no, ENOSYS, ALLOW),
            (n(libc::SYS_unshare), no, EPERM, ALLOW),
            (n(libc::SYS_socket), [2, 0, 0], ALLOW, ALLOW),
            (n(libc::SYS_socket), [40, 0, 0], EPERM, EPERM),
            (n(libc::SYS_socket), [39, 0, 0], ALLOW, ALLOW),
            (n(libc::SYS_socket), [38, 0, 0], EPERM, EPERM),
            (n(libc::SYS_personality), [0x2_0000, 0, 0], ALLOW, ALLOW),
            (n(libc::SYS_personality), [0x4_0000, 0, 0], EPERM, EPERM),
            (n(libc::SYS_ioctl), [0, 0x5401, 0], ALLOW, ALLOW),
            (n(libc::SYS_ioctl), [0, 0x5412, 0], EPERM, EPERM),
            (NEWEST, no, ALLOW, ALLOW),
            (NEWEST + 1, no, ENOSYS, ENOSYS),
            (0x4000_0000, no, ENOSYS, ENOSYS),
        ] {
            assert_eq!(run(&usual, here, number, args), result, "{number} {args:?}");
            assert_eq!(
                run(&admin, here, number, args),
                as_admin,
                "{number} {args:?}"
            );
        }
        assert_eq!(run(&usual, 1, 0, no), ENOSYS);
        for table in machine::TABLES {
            for (number, lifted_by) in table.refused {
                let expected = if 0xa804_25fb & lifted_by == 0 {
                    EPERM
                } else {
                    ALLOW
                };
                assert_eq!(run(&usual, table.architecture, *number, no), expected);
            }
            assert_eq!(run(&usual, table.architecture, 3, no), ALLOW);
        }
    }

    /// Calls that Docker's default profile refuses to a process with the
    /// default capabilities, of those that kernels have. (Its latest form
    /// allows add_key, keyctl and request_key; keyrings know no containers,
    /// so they stay refused here.)
    #[cfg(target_arch = "x86_64")]
    const REFUSED: &str = "_sysctl acct add_key bpf delete_module fanotify_init finit_module \
        fsconfig fsmount fsopen fspick get_mempolicy init_module io_uring_enter \
        io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl \
        lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages \
        mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree \
        perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot \
        request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns \
        settimeofday clock_settime swapoff swapon sysfs syslog umount2 unshare uselib \
        userfaultfd ustat vhangup";

    #[test]
    fn rules_with_names_say_the_same() {
        for capabilities in [0xa804_25fb, 0xa804_25fb | lift::SYS_ADMIN] {
            let own = filter(capabilities);
            let named = as_filter(capabilities).compile();
            let table = &profile::machine::TABLES[0];
            let here = machine::TABLES[0].architecture;
            for (number, name) in (table.names)() {
                for first in [0, 38, 39, 41, 0x1000_0000] {
                    let args = [first, 0, 0];
                    let result = run(&own, here, number, args);
                    // Without a rule of its own it does not exist.
                    let other = match run(&named, here, number, args) {
                        ENOSYS if matches!(name, "clone" | "socket" | "personality") => EPERM,
                        other => other,
                    };
                    assert_eq!(other, result, "{name} {first:x}");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_call_has_the_result_that_docker_gives() {
        let usual = filter(0xa804_25fb);
        let refused: Vec<&str> = REFUSED.split_whitespace().collect();
        let mut seen = 0;
        for call in syscalls::x86_64::Sysno::iter() {
            let number = call as u32;
            let result = run(&usual, machine::TABLES[0].architecture, number, [0; 3]);
            let expected = match call.name() {
                "clone3" => ENOSYS,
                _ if number > NEWEST => ENOSYS,
                name if refused.contains(&name) => {
                    seen += 1;
                    EPERM
                }
                _ => ALLOW,
            };
            assert_eq!(result, expected, "{}", call.name());
        }
        assert_eq!(seen, refused.len());
    }
}
