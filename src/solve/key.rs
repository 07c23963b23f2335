//! Keys: what a step's result depends on, as a digest.
//!
//! Two steps with one key have one result, so the second is not run.
//!
//! | enters | why |
//! |---|---|
//! | the format of keys | a new shiplap that computes another result must not find the old one |
//! | the key of the step it builds on | the file system it starts from |
//! | base images: the chainID of their layers | content, whatever the name, the registry or the compression |
//! | RUN: words, environment, user, directory, network, security, devices, platform | the process sees them |
//! | RUN: mounts: type, target, options, ids | likewise; a bind mount's content by the key of its stage, or by checksum for context files |
//! | RUN: `/etc/hosts` entries and `/dev/shm` size that were asked for | likewise |
//! | COPY, ADD: destination, owner, mode, flags, working directory | they shape the layer |
//! | COPY, ADD: each file's path, type, content, mode, owner, link target, extended attributes | content decides |
//! | remote files: URL, and the digest of what came | likewise |
//!
//! | does not enter | why |
//! |---|---|
//! | mtime of any file | a fresh checkout must hit |
//! | proxy arguments that are not declared | they say how to reach the network, not what to make |
//! | values of secrets, agents | a rotated token must not run everything again; ids do enter |
//! | content of cache mounts | they are scratch space by contract |
//! | labels, ENV that a step does not see, other config | they make no layer |
//! | `--jobs`, isolation, compression, platform of the builder | they do not change the result |
//! | names of stages, comments, position in the file | likewise |

use crate::digest::{Digest, Hasher};

/// Changes when the same step would make another layer than before.
const FORMAT: &[u8] = b"shiplap-key-1";

/// Collects what a key depends on, each part framed by its length.
#[derive(Debug, Clone)]
pub struct KeyBuilder(Hasher);

impl KeyBuilder {
    /// A key for `kind` of step.
    pub fn new(kind: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(FORMAT);
        hasher.field(kind.as_bytes());
        Self(hasher)
    }

    /// Adds a named value.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.0.field(name.as_bytes());
        self.0.field(value.as_ref());
        self
    }

    /// Adds a named list.
    pub fn list<T: AsRef<[u8]>>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        self.0.field(name.as_bytes());
        let values: Vec<T> = values.into_iter().collect();
        self.0.field(&(values.len() as u64).to_le_bytes());
        for value in values {
            self.0.field(value.as_ref());
        }
        self
    }

    /// Adds a value that may be missing; missing and empty differ.
    pub fn optional<T: AsRef<[u8]>>(&mut self, name: &str, value: Option<T>) -> &mut Self {
        self.list(name, value)
    }

    /// The key.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_not_run_together() {
        let key = |f: &dyn Fn(&mut KeyBuilder)| {
            let mut k = KeyBuilder::new("x");
            f(&mut k);
            k.finish()
        };
        let all = [
            key(&|k| {
                k.list("a", ["ab", "c"]);
            }),
            key(&|k| {
                k.list("a", ["a", "bc"]);
            }),
            key(&|k| {
                k.list("a", ["abc"]);
            }),
            key(&|k| {
                k.add("a", "abc");
            }),
            key(&|k| {
                k.optional("a", Some(""));
            }),
            key(&|k| {
                k.optional("a", None::<&str>);
            }),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }
}
