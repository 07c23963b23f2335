//! The parsers of what registries answer, for the fuzzer. Only there when it
//! is built.

use url::Url;

use super::challenge::{Challenge, choose};
use super::list;

/// Realm and service of the bearer challenge in a `WWW-Authenticate` header.
pub fn challenge(header: &str) -> Option<(String, Option<String>)> {
    match choose([header].into_iter())? {
        Challenge::Bearer { realm, service } => Some((realm, service)),
        Challenge::Basic => None,
    }
}

/// Where the list at `here` goes on by its `Link` header.
pub fn next_page(here: &str, header: &str) -> Option<String> {
    let here = Url::parse(here).ok()?;
    let base = here.join("/v2/").ok()?;
    let link = list::next_link(header)?;
    list::follow_link(&base, &here, link).ok().map(String::from)
}

/// The tags of one page.
pub fn tags(page: &[u8]) -> Option<Vec<String>> {
    list::read_tags(page).ok()
}
