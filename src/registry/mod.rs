//! The client of the distribution-spec: resolving, pulling and pushing.
//!
//! A [`Client`] holds connections, credentials and tokens and is cheap to
//! clone; a [`Repository`] is a client that looks at one repository. What is
//! not here: walking an image and moving all of it (`transport`), and any
//! knowledge of a local store.
//!
//! # Invariants
//! - Credentials and tokens go to the origin (scheme, host, port) of the
//!   registry they belong to and to a token server that [`origin`]'s rules
//!   accept, and nowhere else: redirects are followed here, not by the HTTP
//!   library, and lose the `Authorization` header when they leave the origin.
//! - What is read is verified against its digest and never larger than was
//!   promised; what is held in memory has a fixed limit.
//! - Every operation makes a bounded number of requests. Limits on time are
//!   on connecting, on waiting for an answer and on silence, never on the
//!   whole transfer.
//! - The environment is not read: paths of credential files, proxies and the
//!   search path of helpers are options.
//!
//! # Specification
//! distribution-spec 1.1; the token flow of the distribution project
//! ("Docker Registry v2 authentication"), RFC 7235, RFC 6750.

mod artifact;
mod auth;
mod certs;
mod challenge;
mod client;
mod connection;
pub mod credentials;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod helper;
mod list;
mod login;
mod manifest;
pub mod origin;
mod parts;
mod proxy;
mod pull;
mod push;
pub mod registries;
mod retry;

pub use artifact::FileBlob;
pub use certs::CertificateDirs;
pub use client::{Client, ClientOptions, Timeouts};
pub use credentials::{AuthFile, AuthFiles, Credential, CredentialError, CredentialSource};
pub use error::{Failure, RegistryError};
pub use login::{Kept, LoginFile};
pub use manifest::Repository;
pub use parts::PartialUpload;
pub use proxy::Proxies;
pub use push::{Mount, Progress};
pub use registries::{Registries, RegistriesError};

/// Makes text of unknown origin fit for a terminal: control characters are
/// escaped, the rest is cut to 500 characters.
pub fn printable(text: &str) -> String {
    error::clean(text)
}
