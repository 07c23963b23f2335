//! Output of a process, cut into lines.

/// A line longer than this comes in parts of this size, in bytes.
pub(super) const LONGEST: usize = 64 << 10;

/// Cuts a stream into lines, holding back at most one part of a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    /// The line under way has had parts already.
    continued: bool,
}

impl Lines {
    /// Takes bytes in and hands out the lines they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                self.rest.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                if !(self.continued && self.rest.is_empty()) {
                    line(self.rest.strip_suffix(b"\r").unwrap_or(&self.rest));
                }
                self.rest.clear();
                self.continued = false;
            } else {
                self.rest.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.rest.len() == LONGEST {
                    line(&self.rest);
                    self.rest.clear();
                    self.continued = true;
                }
            }
        }
    }

    /// Hands out what came after the last line end.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.rest.is_empty() {
            line(&self.rest);
            self.rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in input.chunks(size) {
            lines.push(piece, &mut |l| out.push(l.to_vec()));
        }
        lines.finish(&mut |l| out.push(l.to_vec()));
        out
    }

    #[test]
    fn lines_are_the_same_for_any_pieces() {
        let long = vec![b'x'; LONGEST * 2 + 5];
        let full = [vec![b'y'; LONGEST], b"\nz".to_vec()].concat();
        for size in [1, 3, 1000, 1 << 20] {
            assert_eq!(cut(b"a\n\nb\r\nc", size), [&b"a"[..], b"", b"b", b"c"]);
            assert_eq!(cut(b"", size), Vec::<Vec<u8>>::new());
            assert_eq!(cut(b"a\n", size), [b"a"]);
            let parts: Vec<usize> = cut(&long, size).iter().map(Vec::len).collect();
            assert_eq!(parts, [LONGEST, LONGEST, 5]);
            let parts: Vec<usize> = cut(&full, size).iter().map(Vec::len).collect();
            assert_eq!(parts, [LONGEST, 1]);
        }
    }
}
