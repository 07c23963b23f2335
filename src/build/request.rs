//! What a build is asked for, before anything is looked up.

use std::path::PathBuf;

use super::cache::{CacheFrom, CacheTo};
use crate::container::{Confinement, Isolation, Network, RootKind};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::image::media_type::{Compression, Format};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::solve::{Agent, Ran};

/// A build, as asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The build context: a directory, `-` for standard input, or a URL.
    pub context: String,
    /// The Dockerfile: a path (relative to the working directory), `-` for
    /// standard input, or a URL. `None` is `Dockerfile` in the context.
    pub file: Option<String>,
    /// An ignore file to use instead of the context's own.
    pub ignore_file: Option<PathBuf>,
    /// Named contexts, name and value.
    pub build_contexts: Vec<(String, String)>,
    /// Names for the image.
    pub tags: Vec<Reference>,
    /// Values for ARGs.
    pub build_args: Vec<(String, String)>,
    /// The stage to build; `None` is the last one.
    pub target: Option<String>,
    /// Labels to add to the image.
    pub labels: Vec<(String, String)>,
    /// Platforms to build for; empty is the host's.
    pub platforms: Vec<Platform>,
    /// Runs every step, whatever is cached.
    pub no_cache: bool,
    /// Where results of earlier builds are looked for, in this order.
    pub cache_from: Vec<CacheFrom>,
    /// Where the results of this build go.
    pub cache_to: Vec<CacheTo>,
    /// When base images are looked up in their registry.
    pub pull: PullPolicy,
    /// The network of RUN steps that do not ask for one.
    pub network: Network,
    /// The name of the host in RUN steps; `None` is ours.
    pub hostname: Option<String>,
    /// `name:address` pairs for `/etc/hosts` of RUN steps.
    pub add_hosts: Vec<(String, String)>,
    /// What RUN steps may do and use.
    pub confinement: Confinement,
    /// What they may ask for beyond that.
    pub allow: Allow,
    /// How many steps run at once; 0 is as many as there are cores, at least 2.
    pub jobs: usize,
    /// Where the result goes; empty is the local store.
    pub outputs: Vec<Output>,
    /// Pushes all tags when done.
    pub push: bool,
    /// Layers that the build makes are compressed so.
    pub compression: Compression,
    /// The codec's level; `None` is its default.
    pub compression_level: Option<i32>,
    /// Base layers are compressed anew too.
    pub force_compression: bool,
    /// The family of manifests that is written.
    pub format: Format,
    /// Annotations of the result.
    pub annotations: Vec<Annotation>,
    /// No mtime later than `SOURCE_DATE_EPOCH` stays in new layers.
    pub rewrite_timestamp: bool,
    /// A build that has a RUN step ends with
    /// [`BuildError::WouldRun`](super::BuildError::WouldRun) before anything is
    /// made: for a process that would move elsewhere first.
    pub without_run: bool,
    /// How RUN steps are isolated.
    pub isolation: Isolation,
    /// What their root filesystems are made of; `None` is what works best.
    pub root_kind: Option<RootKind>,
    /// The OCI runtime of [`Isolation::Oci`]; `None` is one that is found.
    pub runtime: Option<PathBuf>,
    /// `--secret`s.
    pub secrets: Vec<Secret>,
    /// Sockets of agents that `RUN --mount=type=ssh,id=` asks for, by id.
    pub ssh: Vec<(String, Agent)>,
}

/// What a Dockerfile may ask for, because the user said so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// `RUN --security=insecure`.
    pub insecure: bool,
    /// `RUN --network=host` where the build has another network.
    pub host_network: bool,
}

/// When base images are looked up in their registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when the store has no image of that name.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a secret's value comes from. The value itself is read when a step
/// asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The name that `RUN --mount=type=secret,id=` uses.
    pub id: String,
    /// Its source.
    pub source: SecretSource,
}

/// Source of a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A value that the caller took from its environment.
    Value(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Value(_) => f.write_str("Value(***)"),
        }
    }
}

impl Request {
    /// Whether the result is an index, as it is for several platforms, or when
    /// the argument BUILDKIT_MULTI_PLATFORM asks for one.
    pub fn is_index(&self) -> bool {
        const NAME: &str = "BUILDKIT_MULTI_PLATFORM";
        let mut kept: Vec<&Platform> = self.platforms.iter().collect();
        kept.sort();
        kept.dedup();
        let asked = self.build_args.iter().rev().find(|(name, _)| name == NAME);
        let yes = asked.is_some_and(|(_, v)| matches!(v.as_str(), "1" | "t" | "true" | "TRUE"));
        kept.len() > 1 || yes
    }
}

/// One annotation and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// The document that gets it.
    pub to: Annotated,
    /// Only for this platform's image.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What can have annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    /// An image's manifest.
    Manifest,
    /// The descriptor by which an index (or a layout) names a manifest.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The descriptor by which a layout names the index.
    IndexDescriptor,
}

/// One place the result goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its form.
    pub kind: OutputKind,
    /// Where; not used by [`OutputKind::Image`].
    pub dest: Option<Destination>,
    /// Names beside the request's tags.
    pub names: Vec<Reference>,
    /// For [`OutputKind::Oci`]: one tar file, or a directory.
    pub tar: bool,
    /// Pushes these names (and the request's tags) to their registries.
    pub push: bool,
    /// Pushes to these repositories, but gives no tags there.
    pub push_by_digest: bool,
    /// The names with the digest are names of the result too.
    pub name_canonical: bool,
    /// The family of manifests, where it is not the request's.
    pub format: Option<Format>,
    /// The layers' compression, where it is not the request's.
    pub compression: Option<Compression>,
    /// Its level.
    pub compression_level: Option<i32>,
    /// Whether base layers are compressed anew too, where it is not as the
    /// request says.
    pub force_compression: Option<bool>,
    /// Annotations beside the request's.
    pub annotations: Vec<Annotation>,
    /// Files: a folder for each platform; `None` is when there are several.
    pub platform_split: Option<bool>,
    /// [`OutputKind::Local`]: what else is in the directory goes.
    pub delete: bool,
}

impl Output {
    /// With everything else as it is by default.
    pub fn new(kind: OutputKind, dest: Option<Destination>) -> Self {
        Self {
            kind,
            dest,
            names: Vec::new(),
            tar: true,
            push: false,
            push_by_digest: false,
            name_canonical: false,
            format: None,
            compression: None,
            compression_level: None,
            force_compression: None,
            annotations: Vec::new(),
            platform_split: None,
            delete: false,
        }
    }
}

/// The forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// An image in the store.
    Image,
    /// An OCI layout, as a tar file or a directory.
    Oci,
    /// An archive that `docker load` reads.
    Docker,
    /// The root filesystem as a tar file.
    Tar,
    /// The root filesystem as a directory.
    Local,
    /// Nothing: only the cache knows of the build.
    Nothing,
}

impl OutputKind {
    /// Whether it has manifests, and not files alone.
    pub fn is_image(self) -> bool {
        match self {
            Self::Image | Self::Oci | Self::Docker => true,
            Self::Tar | Self::Local | Self::Nothing => false,
        }
    }
}

/// A file, a directory or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A path.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Built {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Digest of the config, where there is one image.
    pub config: Option<Digest>,
    /// All names it was given.
    pub names: Vec<Reference>,
    /// The steps that ran; cached ones are left out.
    pub ran: Vec<Ran>,
}
