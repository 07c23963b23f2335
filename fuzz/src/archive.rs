//! Tars from a fuzzer's bytes.

/// Makes the checksum of every block that may be a header right, so that the
/// fuzzer gets past it.
pub fn seal(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block.iter().all(|b| *b == 0) || &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

/// A ustar archive of files and, where the content begins with `->`, symbolic
/// links.
pub fn of_files<'a>(files: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut tar = Builder::default();
    for (name, content) in files {
        match content.strip_prefix(b"->") {
            Some(target) => tar.add(b'2', name, target, b""),
            None => tar.add(b'0', name, b"", content),
        }
    }
    tar.finish()
}

/// A ustar archive in the making. Names are cut to their fields.
#[derive(Debug, Default)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// Adds an entry of the given type flag.
    pub fn add(&mut self, kind: u8, name: &[u8], link: &[u8], body: &[u8]) {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, size: usize, text: &[u8]| {
            let length = text.len().min(size);
            block[at..at + length].copy_from_slice(&text[..length]);
        };
        let mode: &[u8] = if kind == b'5' { b"0000755" } else { b"0000644" };
        put(0, 100, name);
        put(100, 8, mode);
        put(124, 12, format!("{:011o}\0", body.len()).as_bytes());
        put(156, 1, &[kind]);
        put(157, 100, link);
        put(257, 8, b"ustar\x0000");
        seal(&mut block);
        self.0.extend(block);
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
