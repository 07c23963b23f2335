use super::*;

fn settings(compression: Compression, threads: usize) -> Settings {
    Settings {
        compression,
        level: None,
        workers: Workers::new(threads),
    }
}

fn compress(data: &[u8], settings: &Settings) -> Vec<u8> {
    let mut out = Compressor::new(Vec::new(), settings).unwrap();
    // Odd pieces: blocks must not depend on how the input comes.
    for piece in data.chunks(77_777) {
        out.write_all(piece).unwrap();
    }
    out.finish().unwrap()
}

fn expand(bytes: Vec<u8>, compression: Compression) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(io::Cursor::new(bytes), compression)?.read_to_end(&mut out)?;
    Ok(out)
}

/// Bytes without a pattern, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn samples() -> Vec<Vec<u8>> {
    let text: Vec<u8> = (0..700_000)
        .flat_map(|n: u32| n.to_string().into_bytes())
        .collect();
    let mut mixed = text.clone();
    mixed.extend(noise(2_500_000));
    vec![
        Vec::new(),
        b"x".to_vec(),
        vec![7; GZIP_BLOCK],
        vec![7; ZSTD_BLOCK],
        text,
        mixed,
    ]
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for compression in [
        Compression::Uncompressed,
        Compression::Gzip,
        Compression::GzipSingle,
        Compression::Zstd,
    ] {
        for data in samples() {
            let one = compress(&data, &settings(compression, 1));
            for threads in [2, 5] {
                let many = compress(&data, &settings(compression, threads));
                assert!(
                    one == many,
                    "{compression:?} {threads} {} bytes",
                    data.len()
                );
            }
            assert!(expand(one, compression).unwrap() == data, "{compression:?}");
        }
    }
}

#[test]
fn single_member_is_one() {
    let data = samples().pop().unwrap();
    let packed = compress(&data, &settings(Compression::GzipSingle, 2));
    let mut out = Vec::new();
    let mut one = flate2::bufread::GzDecoder::new(&packed[..]);
    one.read_to_end(&mut out).unwrap();
    assert!(out == data);
    assert!(one.into_inner().is_empty());
}

#[test]
fn headers_are_fixed() {
    for compression in [Compression::Gzip, Compression::GzipSingle] {
        let packed = compress(b"x", &settings(compression, 1));
        assert_eq!(packed[..8], GZIP_HEADER[..8]);
        assert_eq!(packed[9], 255);
    }
}

#[test]
fn noise_is_stored() {
    let noise = noise(GZIP_BLOCK);
    let packed = compress(&noise, &settings(Compression::Gzip, 1));
    assert!(packed.len() < GZIP_BLOCK + 200);
    // Between text, too.
    let mixed = [&noise[..50_000], &[b'x'; 50_000]].concat().repeat(4);
    let packed = compress(&mixed, &settings(Compression::Gzip, 1));
    assert!(packed.len() < 203_000, "{}", packed.len());
    assert!(expand(packed, Compression::Gzip).unwrap() == mixed);
}

#[test]
fn unknown_levels_are_refused() {
    for (compression, level) in [
        (Compression::Gzip, 10),
        (Compression::Gzip, -1),
        (Compression::Zstd, 0),
        (Compression::Zstd, 23),
    ] {
        let mut settings = settings(compression, 1);
        settings.level = Some(level);
        let e = Compressor::new(Vec::new(), &settings).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn cut_or_followed_by_garbage_is_an_error() {
    let data = samples().swap_remove(4);
    for compression in [
        Compression::Gzip,
        Compression::GzipSingle,
        Compression::Zstd,
    ] {
        let packed = compress(&data[..5000], &settings(compression, 1));
        for cut in 1..packed.len() {
            let cut = packed[..cut].to_vec();
            assert!(expand(cut, compression).is_err());
        }
        let garbage = [&packed[..], b"garbage garbage"].concat();
        assert!(expand(garbage, compression).is_err(), "{compression:?}");
        let twice = packed.repeat(2);
        assert_eq!(expand(twice, compression).unwrap(), data[..5000].repeat(2));
    }
}

#[test]
fn bombs_take_no_memory() {
    // A million empty members.
    let empty = compress(b"", &settings(Compression::Gzip, 1));
    assert_eq!(
        expand(empty.repeat(100_000), Compression::Gzip).unwrap(),
        b""
    );
    let empty = compress(b"", &settings(Compression::Zstd, 1));
    assert_eq!(
        expand(empty.repeat(100_000), Compression::Zstd).unwrap(),
        b""
    );
    // A gzip name without an end.
    let mut named = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255];
    named.extend(vec![b'n'; 1 << 20]);
    assert!(expand(named, Compression::Gzip).is_err());
    // A zstd frame that wants a window of 2 GiB: descriptor 0 (a window
    // follows), exponent 21.
    let window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
    assert!(expand(window, Compression::Zstd).is_err());
}

#[test]
fn reading_ahead_changes_nothing() {
    let data = samples().pop().unwrap();
    let mut out = Vec::new();
    read_ahead(io::Cursor::new(data.clone()))
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    assert!(out == data);

    /// Breaks after so many bytes.
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.min(buf.len());
            if n == 0 {
                return Err(io::Error::other("broken"));
            }
            buf[..n].fill(1);
            self.0 -= n;
            Ok(n)
        }
    }
    // Also where it breaks between two chunks.
    for bytes in [30, 0, 256 << 10, 512 << 10] {
        let mut out = Vec::new();
        let e = read_ahead(Broken(bytes))
            .unwrap()
            .read_to_end(&mut out)
            .unwrap_err();
        assert_eq!((e.to_string().as_str(), out.len()), ("broken", bytes));
    }
    drop(read_ahead(io::repeat(1)).unwrap());
}
