//! Uploading a blob in parts, before its digest is known.
//!
//! # Specification
//! distribution-spec "Pushing a blob in chunks".

use ureq::http::Method;

use super::auth::Actions;
use super::connection::Payload;
use super::error::{Failure, RegistryError};
use super::manifest::Repository;
use super::push::UploadSession;
use crate::digest::Digest;

/// An upload that has begun.
#[derive(Debug)]
pub struct PartialUpload {
    session: UploadSession,
    /// Bytes that the registry has.
    sent: u64,
}

impl PartialUpload {
    /// Bytes that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl Repository {
    /// Begins to upload a blob in parts of `part` bytes; `None` where the
    /// registry wants larger ones, or none at all.
    ///
    /// # Errors
    /// When the registry does not take uploads.
    pub fn upload_in_parts(&self, part: u64) -> Result<Option<PartialUpload>, RegistryError> {
        let op = self.operation(format!("begin an upload to {self}"));
        let begin = || {
            let url = self.url("blobs/uploads/")?;
            let answer = self.send(&self.call(Method::POST, url, Actions::Push))?;
            if answer.status != 202 {
                return Err(self.refusal(answer));
            }
            let least = answer.header("oci-chunk-min-length");
            let least: Option<u64> = least.and_then(|n| n.trim().parse().ok());
            let session = self.session(&answer)?;
            drop(answer.read_some());
            let fits = least.is_none_or(|least| least <= part);
            Ok(fits.then_some(PartialUpload { session, sent: 0 }))
        };
        begin().map_err(|f| op.fail(f))
    }

    /// Sends the next part.
    ///
    /// # Errors
    /// When the registry did not take all of it; the upload is worth nothing
    /// then.
    pub fn send_part(&self, upload: &mut PartialUpload, part: &[u8]) -> Result<(), RegistryError> {
        let op = self.operation(format!("send a part of a blob to {self}"));
        let mut send = || {
            let end = upload.sent + part.len() as u64;
            let call = self
                .call(Method::PATCH, upload.session.url().clone(), Actions::Push)
                .header("content-type", "application/octet-stream")
                .header("content-range", format!("{}-{}", upload.sent, end - 1))
                .payload(Payload::Bytes(part));
            let answer = self.client.send_once(&self.host, &call);
            let answer = answer.map_err(super::client::Sending::into_failure)?;
            if answer.status != 202 {
                return Err(self.refusal(answer));
            }
            upload.session = self.session(&answer)?;
            drop(answer.read_some());
            upload.sent = end;
            Ok(())
        };
        match part.is_empty() {
            true => Ok(()),
            false => send().map_err(|f| op.fail(f)),
        }
    }

    /// Ends the upload: what was sent is the blob `digest`.
    ///
    /// # Errors
    /// When the registry does not agree.
    pub fn finish_parts(
        &self,
        upload: &PartialUpload,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let op = self.operation(format!("push {digest} to {self}"));
        let end = || {
            let mut url = upload.session.url().clone();
            url.query_pairs_mut().append_pair("digest", digest.as_str());
            let call = self.call(Method::PUT, url, Actions::Push);
            let answer = self.client.send_once(&self.host, &call);
            let answer = answer.map_err(super::client::Sending::into_failure)?;
            match answer.status {
                200 | 201 | 204 => {
                    drop(answer.read_some());
                    Ok(())
                }
                _ => Err(self.refusal(answer)),
            }
        };
        end().map_err(|f: Failure| op.fail(f))
    }

    /// Tells the registry that nothing more comes. It need not understand.
    pub fn give_up_parts(&self, upload: &PartialUpload) {
        let url = upload.session.url().clone();
        let call = self.call(Method::DELETE, url, Actions::Push);
        if let Ok(answer) = self.client.send_once(&self.host, &call) {
            drop(answer.read_some());
        }
    }
}
