//! Headers by hand, for archives that no writer would make.

use crate::layer::{pax, ustar};

/// An archive being put together.
#[derive(Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header with the checksum set after `edit`.
    pub(crate) fn header(
        mut self,
        kind: u8,
        name: &[u8],
        size: u64,
        edit: impl FnOnce(&mut ustar::Block),
    ) -> Self {
        let mut block = [0; ustar::BLOCK];
        ustar::NAME.put(&mut block, name);
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        ustar::MODE.put_octal(&mut block, mode);
        ustar::UID.put_octal(&mut block, 0);
        ustar::GID.put_octal(&mut block, 0);
        ustar::SIZE.put_octal(&mut block, size);
        ustar::MTIME.put_octal(&mut block, 1_500_000_000);
        block[ustar::TYPE] = kind;
        ustar::MAGIC.put(&mut block, ustar::POSIX);
        edit(&mut block);
        ustar::seal(&mut block);
        self.0.extend_from_slice(&block);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        let pad = ustar::padding(bytes.len() as u64);
        self.0.resize(self.0.len() + pad, 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.header(b'0', name.as_bytes(), content.len() as u64, |_| {})
            .bytes(content)
    }

    pub(crate) fn file_mode(self, name: &str, content: &[u8], mode: u64) -> Self {
        let edit = |b: &mut ustar::Block| ustar::MODE.put_octal(b, mode);
        self.header(b'0', name.as_bytes(), content.len() as u64, edit)
            .bytes(content)
    }

    pub(crate) fn dir(self, name: &str, mode: u64) -> Self {
        let edit = |b: &mut ustar::Block| ustar::MODE.put_octal(b, mode);
        self.header(b'5', name.as_bytes(), 0, edit)
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        let edit = |b: &mut ustar::Block| ustar::LINK.put(b, target.as_bytes());
        self.header(b'2', name.as_bytes(), 0, edit)
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        let edit = |b: &mut ustar::Block| ustar::LINK.put(b, target.as_bytes());
        self.header(b'1', name.as_bytes(), 0, edit)
    }

    pub(crate) fn device(self, kind: u8, name: &str, major: u64, minor: u64) -> Self {
        self.header(kind, name.as_bytes(), 0, |b| {
            ustar::MAJOR.put_octal(b, major);
            ustar::MINOR.put_octal(b, minor);
        })
    }

    pub(crate) fn fifo(self, name: &str) -> Self {
        self.header(b'6', name.as_bytes(), 0, |_| {})
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            pax::push(&mut body, key.as_bytes(), value);
        }
        self.extended(b'x', &body)
    }

    pub(crate) fn extended(self, kind: u8, body: &[u8]) -> Self {
        self.header(kind, b"x", body.len() as u64, |_| {})
            .bytes(body)
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
