//! Layers: the pipeline, the differ, the unpacker, and keys:
//! `cargo bench --bench layers`.
//!
//! As a test (without `--bench`) everything runs once, on small input.
#![allow(missing_docs, reason = "criterion's macros")]

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shiplap::context::Empty;
use shiplap::context::checksum::Contents;
use shiplap::context::ignore::Ignore;
use shiplap::context::local::LocalTree;
use shiplap::context::select::select;
use shiplap::digest::Digest;
use shiplap::event::Cancel;
use shiplap::image::media_type::Compression;
use shiplap::image::{BlobSink, BlobWriter};
use shiplap::layer::index::Spool;
use shiplap::layer::pipeline::{SealOptions, seal};
use shiplap::layer::tar_write::TarWriter;
use shiplap::layer::unpack::{Form, UnpackOptions, unpack};
use shiplap::snapshot::copy::Table;
use shiplap::snapshot::overlay::changes;
use shiplap::solve::key::KeyBuilder;
use shiplap::sys::fs::Root;

/// `full` where times are taken, else a hundredth.
fn size(full: usize) -> usize {
    if std::env::args().any(|a| a == "--bench") {
        full
    } else {
        full / 100
    }
}

/// Counts what is written.
struct Nowhere;

impl BlobSink for Nowhere {
    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        Ok(Box::new(Self))
    }
    fn has(&self, _: &Digest) -> bool {
        false
    }
}

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Nowhere {
    fn commit(self: Box<Self>, _: &Digest) -> io::Result<()> {
        Ok(())
    }
}

/// What the pipeline can't be faster than: gzip of the same tar, in memory, on
/// all cores.
fn codec(tar: &[u8]) -> usize {
    const BLOCK: usize = 1 << 20;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            let level = libdeflater::CompressionLvl::new(5).expect("gzip has it");
            let mut packer = libdeflater::Compressor::new(level);
            let mut out = vec![0; packer.gzip_compress_bound(BLOCK)];
            let mut bytes = 0;
            while let Some(block) = tar.chunks(BLOCK).nth(next.fetch_add(1, Ordering::Relaxed)) {
                bytes += packer.gzip_compress(block, &mut out).expect("it fits");
            }
            bytes
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let bytes = threads.into_iter().map(|t| t.join().expect("no panic"));
        bytes.sum()
    })
}

/// Fills `dir` with files that compress like text, a hundred in a directory;
/// says how many bytes they have.
fn tree(dir: &Path, files: usize) -> u64 {
    let mut bytes = 0;
    let mut state = 1_u64;
    for i in 0..files {
        let sub = dir.join(format!("d{}", i / 100));
        if i % 100 == 0 {
            fs::create_dir(&sub).expect("a fresh directory");
        }
        let mut text = String::new();
        for _ in 0..100 + i % 400 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            text.push_str(["the ", "layer ", "of ", "image ", "0x"][(state >> 61) as usize % 5]);
            text.push_str(&(state >> 50).to_string());
        }
        bytes += text.len() as u64;
        fs::write(sub.join(format!("f{i}")), text).expect("a fresh file");
    }
    bytes
}

fn list(dir: &Path) -> impl Iterator<Item = io::Result<shiplap::layer::Change>> + use<> {
    changes(dir, Arc::new(Empty)).expect("the tree can be read")
}

fn layers(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let files = scratch.path().join("files");
    fs::create_dir(&files).expect("a fresh directory");
    let bytes = tree(&files, size(10_000));

    let mut group = c.benchmark_group("10,000 files");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    group.bench_function("differ", |b| {
        b.iter(|| list(black_box(&files)).count());
    });
    for (name, compression) in [
        ("pipeline, gzip", Compression::Gzip),
        ("pipeline, zstd", Compression::Zstd),
        ("pipeline, not compressed", Compression::Uncompressed),
    ] {
        let options = SealOptions {
            compression,
            ..SealOptions::default()
        };
        group.bench_function(name, |b| {
            b.iter(|| seal(list(&files), &Nowhere, &options).expect("the layer can be made"));
        });
    }
    let mut tar = TarWriter::new(Vec::new(), None);
    for change in list(&files) {
        let change = change.expect("the tree can be read");
        tar.change(change).expect("a vector takes all");
    }
    let tar = tar.finish().expect("a vector takes all");
    group.bench_function("the codec alone, gzip", |b| {
        b.iter(|| codec(black_box(&tar)))
    });
    group.bench_function("unpacker", |b| {
        b.iter_batched(
            || tempfile::tempdir_in(scratch.path()).expect("a scratch directory"),
            |out| {
                let root = Root::open(out.path()).expect("it was just made");
                let options = UnpackOptions {
                    owners: false,
                    ..UnpackOptions::new(Form::Flat)
                };
                unpack(tar.as_slice(), &root, &options).expect("the layer is good");
                out
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("key of a COPY of all", |b| {
        b.iter(|| {
            let tree = Arc::new(LocalTree::open(&files, None).expect("the tree can be read"));
            let mut found = select(&*tree, ".", false, &Ignore::default(), &tempfile::tempfile)
                .expect("the tree is there");
            let contents = Contents::of(tree, &mut found, &tempfile::tempfile).unwrap();
            contents
                .read(2, &Cancel::default())
                .expect("the tree can be read");
            contents.digest()
        });
    });
    group.finish();

    let large = scratch.path().join("large");
    fs::create_dir(&large).expect("a fresh directory");
    for n in 0..size(100).max(2) {
        let text: Vec<u8> = tar
            .iter()
            .copied()
            .cycle()
            .skip(n << 16)
            .take(1 << 20)
            .collect();
        fs::write(large.join(format!("f{n}")), text).expect("a fresh file");
    }
    let mut tar = TarWriter::new(Vec::new(), None);
    for change in list(&large) {
        let change = change.expect("the tree can be read");
        tar.change(change).expect("a vector takes all");
    }
    let tar = tar.finish().expect("a vector takes all");
    let mut group = c.benchmark_group("100 files of 1 MiB");
    group
        .throughput(Throughput::Bytes(tar.len() as u64))
        .sample_size(10);
    group.bench_function("pipeline, gzip", |b| {
        b.iter(|| {
            seal(list(&large), &Nowhere, &SealOptions::default()).expect("the layer can be made")
        });
    });
    group.bench_function("the codec alone, gzip", |b| {
        b.iter(|| codec(black_box(&tar)))
    });
    group.finish();

    let env: Vec<String> = (0..50).map(|i| format!("NAME{i}=value of {i}")).collect();
    c.bench_function("key of a RUN with 50 variables", |b| {
        b.iter(|| {
            let mut key = KeyBuilder::new("run");
            key.add("parent", "sha256:00")
                .list("args", ["/bin/sh", "-c", "make"]);
            key.list("env", black_box(&env))
                .optional("network", Some("none"));
            key.finish()
        });
    });
}

/// What a step in a plain directory costs when it changed one file, next to a
/// walk that only looks at the status of every entry.
fn directory(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path();
    for n in 0..size(1000) {
        let sub = root.join(format!("d{n}"));
        fs::create_dir(&sub).expect("a fresh directory");
        for f in 0..100 {
            fs::write(sub.join(format!("f{f}")), "").expect("a fresh file");
        }
    }
    let mut group = c.benchmark_group("a directory of 100,000 files");
    group.sample_size(10);
    let spool = || Spool::temporary(&std::env::temp_dir()).expect("a scratch file");
    let mut table = Some(Table::read(root, spool()).expect("the tree can be read"));
    let mut round = 0_u64;
    group.bench_function("what one RUN changed", |b| {
        b.iter(|| {
            round += 1;
            fs::write(root.join("d0/f0"), round.to_string()).expect("a file of ours");
            let before = table.take().expect("the round before left one");
            let found = before.changes(root, Arc::new(Empty), None, spool());
            let mut found = found.expect("the tree can be read");
            let count = found
                .by_ref()
                .inspect(|change| assert!(change.is_ok()))
                .count();
            table = Some(found.finish().expect("all was taken"));
            count
        });
    });
    group.bench_function("find -printf '%s %T@'", |b| {
        b.iter(|| {
            let mut find = std::process::Command::new("find");
            find.arg(root).args(["-printf", "%s %T@\\n"]);
            find.stdout(std::process::Stdio::null());
            assert!(find.status().expect("find is installed").success());
        });
    });
    group.finish();
}

criterion_group!(benches, layers, directory);
criterion_main!(benches);
