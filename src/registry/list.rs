//! What a repository has: tags, referrers; and taking things away.

use std::collections::HashSet;

use serde::Deserialize;
use ureq::http::Method;
use url::Url;

use super::auth::Actions;
use super::error::{Failure, RegistryError, clean};
use super::manifest::Repository;
use super::origin;
use crate::digest::Digest;
use crate::image::{Descriptor, Document, MAX_MANIFEST_BYTES};

/// The largest page that is read, in bytes.
const MAX_PAGE: u64 = 8 << 20;
/// Most pages that are asked for.
const MAX_PAGES: usize = 1000;
/// Most entries that are kept.
const MAX_ENTRIES: usize = 1_000_000;

impl Repository {
    /// The repository's tags, in the registry's order.
    ///
    /// # Errors
    /// Also when the list leads to another server or does not end.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let op = self.operation(format!("list the tags of {self}"));
        let url = self.url("tags/list?n=1000").map_err(|f| op.fail(f))?;
        let mut tags = Vec::new();
        self.pages(url, |body| {
            tags.extend(read_tags(body)?);
            Ok(tags.len())
        })
        .map_err(|f| op.fail(f))?;
        Ok(tags)
    }

    /// The manifests whose subject is `digest`, all or those of one type, by
    /// the referrers API or, where the registry has none, by the tag that
    /// stands for it.
    ///
    /// # Errors
    /// See [`Failure`](super::Failure).
    pub fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = self.all_referrers(digest, artifact_type)?;
        // Registries need not filter.
        found.retain(|d| artifact_type.is_none_or(|kind| d.artifact_type() == Some(kind)));
        Ok(found)
    }

    fn all_referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let op = self.operation(format!("list what refers to {digest} in {self}"));
        let mut url = self
            .url(&format!("referrers/{digest}"))
            .map_err(|f| op.fail(f))?;
        if let Some(kind) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let mut found: Vec<Descriptor> = Vec::new();
        let result = self.pages(url, |body| {
            match Document::parse(body).map_err(|e| e.to_string())? {
                Document::Index(index) => found.extend(index.manifests),
                Document::Manifest(_) => return Err("it is no index".into()),
            }
            Ok(found.len())
        });
        match result {
            Ok(()) => Ok(found),
            Err(Failure::Status { status: 404, .. }) => self.fallback_referrers(digest),
            Err(failure) => Err(op.fail(failure)),
        }
    }

    fn fallback_referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        match self.resolve(&referrers_tag(digest)) {
            Ok((_, bytes)) => Ok(match Document::parse(&bytes) {
                Ok(Document::Index(index)) => index.manifests,
                _ => Vec::new(),
            }),
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Deletes the manifest `target`, a digest or, where the registry allows
    /// it, a tag.
    ///
    /// # Errors
    /// See [`Failure`](super::Failure); many registries refuse deletion.
    pub fn delete_manifest(&self, target: &str) -> Result<(), RegistryError> {
        let op = self.operation(format!("delete {}", self.display(target)));
        let result = self.url(&format!("manifests/{target}")).and_then(|url| {
            let answer = self.send(&self.call(Method::DELETE, url, Actions::Delete))?;
            match answer.status {
                200..=299 => Ok(()),
                _ => Err(self.refusal(answer)),
            }
        });
        result.map_err(|f| op.fail(f))
    }

    /// Follows a paginated list; `take` gets each page and says how many
    /// entries there are so far.
    fn pages(
        &self,
        first: Url,
        mut take: impl FnMut(&[u8]) -> Result<usize, String>,
    ) -> Result<(), Failure> {
        let base = self.client.base(&self.host)?;
        let mut seen = HashSet::new();
        let mut next = Some(first);
        while let Some(url) = next.take() {
            if seen.len() >= MAX_PAGES || !seen.insert(url.to_string()) {
                return Err(Failure::Protocol("the list has no end".into()));
            }
            let answer = self.send(&self.call(Method::GET, url, Actions::Pull))?;
            if answer.status != 200 {
                return Err(self.refusal(answer));
            }
            next = match answer.header("link").and_then(next_link) {
                None => None,
                Some(link) => Some(follow_link(&base, &answer.url, link)?),
            };
            let body = answer
                .read(MAX_PAGE.max(MAX_MANIFEST_BYTES))
                .map_err(|e| Failure::Protocol(clean(&e.to_string())))?;
            let entries = take(&body)
                .map_err(|e| Failure::Protocol(format!("the list is malformed: {}", clean(&e))))?;
            if entries > MAX_ENTRIES {
                return Err(Failure::Protocol("the list has too many entries".into()));
            }
        }
        Ok(())
    }
}

/// The tags of one page.
pub(super) fn read_tags(page: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let page: Page = serde_json::from_slice(page).map_err(|e| e.to_string())?;
    Ok(page.tags.unwrap_or_default())
}

/// The tag under which referrers are listed where the API is missing.
pub(super) fn referrers_tag(digest: &Digest) -> String {
    let text = format!("{}-{}", digest.algorithm(), digest.encoded());
    text.chars().take(128).collect()
}

/// The target of `rel="next"`.
pub(super) fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters
            .split(';')
            .any(|p| {
                let p = p.trim().to_ascii_lowercase();
                p == "rel=next" || p == "rel=\"next\""
            })
            .then_some(target)
    })
}

pub(super) fn follow_link(base: &Url, here: &Url, link: &str) -> Result<Url, Failure> {
    let target = here
        .join(link)
        .map_err(|e| Failure::Protocol(format!("the list's next page is no URL: {e}")))?;
    if origin::same_origin(base, &target) {
        Ok(target)
    } else {
        Err(Failure::RedirectRefused {
            target: super::client::display_url(&target),
            reason: "the list goes on at another server",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let base = Url::parse("https://r.io/v2/").unwrap();
        let here = Url::parse("https://r.io/v2/x/tags/list").unwrap();
        for (header, expected) in [
            (
                r#"</v2/x/tags/list?last=a>; rel="next""#,
                Some(Some("https://r.io/v2/x/tags/list?last=a")),
            ),
            (
                r#"<a>; rel="prev", <b>; rel=next"#,
                Some(Some("https://r.io/v2/x/tags/b")),
            ),
            (r#"<//evil.io/x>; rel="next""#, Some(None)),
            (r#"<http://r.io/x>; rel="next""#, Some(None)),
            (r#"<https://r.io:444/x>; rel="next""#, Some(None)),
            (r#"<file:///etc/passwd>; rel="next""#, Some(None)),
            (r#"</x>; rel="prev""#, None),
            ("garbage", None),
        ] {
            let got =
                next_link(header).map(|l| follow_link(&base, &here, l).ok().map(String::from));
            assert_eq!(got, expected.map(|e| e.map(str::to_owned)), "{header}");
        }
    }
}
