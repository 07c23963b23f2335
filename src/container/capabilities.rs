//! What root may do inside: sets of capabilities, by name and number.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::spec::SpecError;

/// Names of capabilities by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What root may do inside, unless told otherwise: Docker's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(BTreeSet<u8>);

impl Default for Capabilities {
    fn default() -> Self {
        let mut set = Self(BTreeSet::new());
        set.0
            .extend(DEFAULT_CAPABILITIES.iter().filter_map(|n| Self::number(n)));
        set
    }
}

impl Capabilities {
    /// No capability.
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Every capability that is known here.
    pub fn all() -> Self {
        Self((0..CAPABILITIES.len() as u8).collect())
    }

    /// Adds one by name, with or without `CAP_`, in any case; or `ALL`.
    ///
    /// # Errors
    /// [`SpecError::Capability`] for an unknown name.
    pub fn add(&mut self, name: &str) -> Result<(), SpecError> {
        self.0.extend(Self::named(name)?);
        Ok(())
    }

    /// Takes one away; the names are those of [`add`](Self::add).
    ///
    /// # Errors
    /// [`SpecError::Capability`] for an unknown name.
    pub fn drop(&mut self, name: &str) -> Result<(), SpecError> {
        for number in Self::named(name)? {
            self.0.remove(&number);
        }
        Ok(())
    }

    /// Whether one is in it; the names are those of [`add`](Self::add).
    pub fn has(&self, name: &str) -> bool {
        Self::named(name).is_ok_and(|all| all.is_subset(&self.0))
    }

    /// Takes all away but these, which are names without `CAP_`.
    pub(super) fn keep_named(&mut self, names: &[&str]) {
        let kept: BTreeSet<u8> = names.iter().filter_map(|n| Self::number(n)).collect();
        self.0.retain(|number| kept.contains(number));
    }

    /// Takes away all that are not in `mask`, see [`mask`](Self::mask).
    pub(super) fn keep(&mut self, mask: u64) {
        self.0.retain(|n| mask >> n & 1 == 1);
    }

    /// Their names, `CAP_CHOWN`, in the order of their numbers.
    pub fn names(&self) -> Vec<String> {
        let known = self
            .0
            .iter()
            .filter_map(|n| CAPABILITIES.get(usize::from(*n)));
        known.map(|name| format!("CAP_{name}")).collect()
    }

    /// Bit *n* stands for capability number *n*.
    pub fn mask(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |mask, n| mask | 1_u64.wrapping_shl(u32::from(*n)))
    }

    fn named(name: &str) -> Result<BTreeSet<u8>, SpecError> {
        if name.eq_ignore_ascii_case("all") {
            return Ok(Self::all().0);
        }
        match Self::number(name) {
            Some(number) => Ok([number].into()),
            None => Err(SpecError::Capability(name.into())),
        }
    }

    fn number(name: &str) -> Option<u8> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let index = CAPABILITIES.iter().position(|known| *known == bare)?;
        u8::try_from(index).ok()
    }
}
