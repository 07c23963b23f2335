//! The use case: a request in, an image out.
//!
//! ```text
//! Request ─▶ context + Dockerfile ─▶ bases ─▶ Graph ─▶ Solved ─▶ documents ─▶ outputs
//! ```
//! Each arrow is a phase with its own module and its own failures; nothing
//! behind it looks at what was before. Only the last phase gives a name to
//! anything, so a build that fails leaves none.

mod assemble;
mod bases;
pub mod cache;
mod epoch;
mod error;
mod export;
pub mod frontend;
pub mod import;
mod input;
pub mod request;
pub mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use assemble::Times;
pub use bases::BaseError;
use cache::Opened;
pub use error::{BuildError, SourceText};
pub use input::Stdin;
use request::Annotated;
pub use request::{Allow, Built, Destination, Output, OutputKind, PullPolicy, Request};

use crate::container::{self, Executor, Isolation, Place, RootKind};
use crate::dockerfile;
use crate::event::{Cancel, Events};
use crate::graph::print::KnownKey;
use crate::graph::{
    self, BaseRequest, Bases, Graph, NamedContext, PlanOptions, Planned, Resolved, Step,
};
use crate::image::media_type::{Compression, Format};
use crate::image::{BlobSink, Image};
use crate::layer::pipeline::SealOptions;
use crate::platform::Platform;
use crate::registry::Client;
use crate::solve::{self, Env, Remote, Secret, StepError, StepResult};
use crate::store::{Store, TempDir};

/// What a build works with.
pub struct Tools {
    /// Where everything is kept.
    pub store: Store,
    /// Talks to registries.
    pub client: Client,
    /// This program, to run again inside of build containers.
    pub program: PathBuf,
    /// The content of `/etc/resolv.conf` for build containers.
    pub resolv_conf: String,
    /// Reaches what ADD names by URL.
    pub remote: Remote,
    /// Standard input, for whoever is asked to read it.
    pub stdin: Stdin,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools")
            .field("store", &self.store.root())
            .finish_non_exhaustive()
    }
}

/// Builds what `request` asks for.
///
/// # Errors
/// See [`BuildError`]. Nothing has a new name then; layers that were finished
/// stay known to the next build.
pub fn build(
    request: &Request,
    tools: &Tools,
    events: &Events,
    cancel: &Cancel,
) -> Result<Built, BuildError> {
    let (prepared, mut imports) = std::thread::scope(|scope| {
        let platforms = platforms(request);
        let imports = scope
            .spawn(move || Opened::open(&request.cache_from, &tools.client, &platforms, events));
        let prepared = prepare(request, tools, events, cancel);
        (prepared, imports.join().unwrap_or_default())
    });
    let Prepared {
        input,
        source,
        found,
        graphs,
        _kept,
    } = prepared?;
    let runs = |step: &Step| matches!(step.op, graph::Op::Run(_));
    if request.without_run && graphs.iter().flat_map(|g| &g.steps).any(runs) {
        return Err(BuildError::WouldRun);
    }
    let (seconds, nanos) = now();
    let epoch = graphs.iter().find_map(|g| g.source_date_epoch);
    let seal = seal_options(request, epoch);
    let images = images(&found);
    let executor: OnceLock<Arc<dyn Executor>> = OnceLock::new();
    let get_executor = || -> Result<Arc<dyn Executor>, StepError> {
        if let Some(executor) = executor.get() {
            return Ok(Arc::clone(executor));
        }
        let wanted = Wanted {
            isolation: request.isolation,
            root: request.root_kind,
            runtime: request.runtime.as_deref(),
        };
        let made = make_executor(wanted, tools, events)?;
        Ok(Arc::clone(executor.get_or_init(|| made)))
    };
    let early = export::early(request, tools, cancel);
    let mut env = Env {
        store: &tools.store,
        context: Some(input.context.clone()),
        named: input.named.clone(),
        bases: &images,
        imports: imports.imports.clone(),
        executor: &get_executor,
        remote: &tools.remote,
        options: solve_options(request, tools, seal.clone(), epoch.unwrap_or(seconds)),
        events: events.clone(),
        cancel: cancel.part(),
        early: early.as_ref().map(|early| early as &dyn BlobSink),
    };
    let times = match epoch {
        Some(epoch) => Times::Fixed(assemble::rfc3339(epoch, 0)),
        None => Times::Made(assemble::rfc3339(seconds, nanos)),
    };
    let merged = graph::merge(&graphs);
    let attempt = |env: &Env<'_>, imports: &Opened| {
        let solved = solve::solve(&merged.steps, &merged.results, env);
        input.keep_stats(&tools.store, events);
        let solved = solved.map_err(|e| source.step(e))?;
        if cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let pieces = graphs.iter().zip(&merged.results).zip(&solved.layers);
        let pieces: Vec<export::Piece> = pieces
            .map(|((graph, result), layers)| export::Piece {
                graph: graph.clone(),
                layers: layers.clone(),
                result: *result,
            })
            .collect();
        let bases = found.values().map(|b| Arc::clone(&b.image.blobs));
        let made = Made {
            steps: &merged.steps,
            results: solved.steps,
            ran: solved.ran,
        };
        let exporter = export::Exporter {
            request,
            tools,
            events,
            cancel,
            bases: bases.chain(imports.blobs.iter().cloned()).collect(),
            made: &made,
            early: early.as_ref(),
            seal: seal.clone(),
            times: times.clone(),
        };
        let exported = exporter.export(&pieces)?;
        Ok((exported, made))
    };
    let (exported, made) = match attempt(&env, &imports) {
        // Somebody else's word was wrong; what is here is enough.
        Err(e) if is_import(&e) && !cancel.is_cancelled() => {
            let why = crate::event::chain(&e);
            events.warn(format!("{why}; going on without the imported caches"));
            imports = Opened::default();
            env.imports.clear();
            env.cancel = cancel.part();
            attempt(&env, &imports)
        }
        done => done,
    }?;
    cache::export::CacheExporter {
        tools,
        events,
        cancel,
        imports: &imports,
        made: &made,
        wanted: &merged.results,
        now: seconds,
    }
    .export(&request.cache_to)?;
    Ok(Built {
        descriptor: exported.descriptor,
        config: exported.config.map(|c| c.digest),
        names: exported.names,
        ran: made.ran,
    })
}

fn seal_options(request: &Request, epoch: Option<i64>) -> SealOptions {
    SealOptions {
        format: Format::Oci,
        compression: request.compression,
        level: request.compression_level,
        clamp_mtime: epoch.filter(|_| request.rewrite_timestamp),
        ..SealOptions::default()
    }
}

fn images(found: &bases::Found) -> BTreeMap<BaseRequest, Image> {
    let images = found.iter();
    images.map(|(r, b)| (r.clone(), b.image.clone())).collect()
}

/// The steps of a build and what they came to.
struct Made<'a> {
    steps: &'a [Step],
    results: Vec<Option<StepResult>>,
    /// Those that were executed, with their seconds.
    ran: Vec<solve::Ran>,
}

/// Whether a layer of an imported cache is to blame.
fn is_import(error: &BuildError) -> bool {
    let layer = match error {
        BuildError::Layer(layer) => layer,
        BuildError::Step { source, .. } => match &**source {
            StepError::Layer(layer) => layer,
            _ => return false,
        },
        _ => return false,
    };
    matches!(layer, solve::LayerError::Imported { .. })
}

/// How commands are isolated, as asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    isolation: Isolation,
    root: Option<RootKind>,
    runtime: Option<&'a Path>,
}

/// Makes what runs commands.
fn make_executor(
    wanted: Wanted<'_>,
    tools: &Tools,
    events: &Events,
) -> Result<Arc<dyn Executor>, StepError> {
    let scratch = tools.store.temp_dir()?;
    let place = Place {
        program: &tools.program,
        scratch: scratch.path(),
        root: wanted.root,
        runtime: wanted.runtime,
    };
    let made = container::executor(wanted.isolation, &place)?;
    if !tools.store.layer_form().owners {
        events.warn(
            "there is one user id here: files that a command gives to other users keep the \
             owner they had, or get the command's",
        );
    }
    Ok(made)
}

/// A graph, and the keys of its steps as far as they are known.
pub type Plan = (Graph, Vec<Option<KnownKey>>);

/// What a build of `request` would do, for each platform, without doing it.
/// Base images are looked up, their layers are not fetched.
///
/// # Errors
/// As [`build`] up to there.
pub fn plans(request: &Request, tools: &Tools, cancel: &Cancel) -> Result<Vec<Plan>, BuildError> {
    let events = Events::none();
    let prepared = prepare(request, tools, &events, cancel)?;
    let epoch = prepared.graphs.iter().find_map(|g| g.source_date_epoch);
    let seal = seal_options(request, epoch);
    let images = images(&prepared.found);
    let env = Env {
        store: &tools.store,
        context: Some(prepared.input.context.clone()),
        named: prepared.input.named.clone(),
        bases: &images,
        imports: Vec::new(),
        executor: &|| Err(StepError::Cancelled),
        remote: &tools.remote,
        options: solve_options(request, tools, seal, epoch.unwrap_or(0)),
        events,
        cancel: cancel.clone(),
        early: None,
    };
    let with_keys = |graph: Graph| {
        let keys = solve::keys(&graph.steps, &env);
        (graph, keys)
    };
    Ok(prepared.graphs.iter().cloned().map(with_keys).collect())
}

/// What is known when all is planned.
struct Prepared {
    input: input::Input,
    source: SourceText,
    found: bases::Found,
    graphs: Vec<Graph>,
    /// Holds what was downloaded.
    _kept: TempDir,
}

/// Why the outputs can't take what is asked for, which is better known before
/// an hour's work than after it.
fn unfit(request: &Request) -> Option<String> {
    let docker = |o: &Output| o.kind == OutputKind::Docker;
    if request.is_index() && request.outputs.iter().any(docker) {
        return Some(
            "a docker archive has room for one platform; use type=oci for several, or build for one"
                .into(),
        );
    }
    let built = platforms(request);
    let default = Output::new(OutputKind::Image, None);
    for output in request.outputs.iter().chain([&default]) {
        let format = output.format.unwrap_or(request.format);
        let compression = output.compression.unwrap_or(request.compression);
        let annotations = || request.annotations.iter().chain(&output.annotations);
        if format == Format::Docker && output.kind.is_image() {
            if compression == Compression::Zstd {
                return Some("docker's manifests have no place for layers in zstd".into());
            }
            if annotations().next().is_some() {
                return Some("docker's manifests have no place for annotations".into());
            }
        }
        for annotation in annotations() {
            let of_index = matches!(annotation.to, Annotated::Index | Annotated::IndexDescriptor);
            if of_index && !request.is_index() {
                return Some(format!(
                    "the annotation {:?} is for an index, and one platform makes none",
                    annotation.key
                ));
            }
            let wanted = annotation.platform.as_ref();
            if let Some(wanted) = wanted.filter(|p| !built.contains(p)) {
                return Some(format!(
                    "the annotation {:?} is for {wanted}, which is not built",
                    annotation.key
                ));
            }
        }
    }
    None
}

/// Reads the input and plans all platforms.
fn prepare(
    request: &Request,
    tools: &Tools,
    events: &Events,
    cancel: &Cancel,
) -> Result<Prepared, BuildError> {
    if let Some(why) = unfit(request) {
        return Err(BuildError::Input(why));
    }
    let kept = tools.store.temp_dir()?;
    let reader = input::Reader {
        remote: &tools.remote,
        stdin: &tools.stdin,
        scratch: kept.path(),
        request,
        cancel,
    };
    let input = reader.open(&tools.store)?;
    let source = frontend::source_of(&input.main);
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse(e))?;
    let time = epoch::resolve(&file, &input, &reader, &source)?;
    let mut found = bases::Found::new();
    let mut graphs = Vec::new();
    for platform in platforms(request) {
        let mut options = plan_options(request, platform);
        options.build_args.extend(time.clone());
        graphs.push(plan(&file, &options, &mut found, request, tools, &source)?);
    }
    frontend::lint(&file, request, &input, &found, &source, events)?;
    Ok(Prepared {
        input,
        source,
        found,
        graphs,
        _kept: kept,
    })
}

/// The platforms to build for, at least one and each once.
fn platforms(request: &Request) -> Vec<Platform> {
    let mut kept: Vec<Platform> = Vec::new();
    for platform in &request.platforms {
        if !kept.contains(platform) {
            kept.push(platform.clone());
        }
    }
    if kept.is_empty() {
        kept.push(Platform::host());
    }
    kept
}

/// Plans one platform, looking bases up until the plan is complete.
fn plan(
    file: &dockerfile::ast::Dockerfile,
    options: &PlanOptions,
    found: &mut bases::Found,
    request: &Request,
    tools: &Tools,
    source: &SourceText,
) -> Result<Graph, BuildError> {
    let finder = bases::Finder {
        store: &tools.store,
        client: &tools.client,
        pull: request.pull,
    };
    loop {
        let known: Bases = found
            .iter()
            .map(|(request, base)| {
                let resolved = Resolved {
                    digest: base.image.descriptor.digest.clone(),
                    config: base.image.config.clone(),
                };
                (request.clone(), resolved)
            })
            .collect();
        match graph::plan(file, options, &known).map_err(|e| source.plan(e))? {
            Planned::Graph(graph) => return Ok(*graph),
            Planned::Need(requests) => {
                let more = finder.find_all(&requests).map_err(|(request, span, e)| {
                    let hint = dockerfile::suggest::stage(file, &request.name);
                    source.base(&request, span, hint, e)
                })?;
                if more.is_empty() {
                    return Err(BuildError::Input(
                        "the base images could not be looked up".into(),
                    ));
                }
                found.extend(more);
            }
        }
    }
}

fn plan_options(request: &Request, platform: Platform) -> PlanOptions {
    let contexts = request.build_contexts.iter().map(|(name, value)| {
        let context = if input::is_image_context(value) {
            NamedContext::Image(value.clone())
        } else {
            NamedContext::Tree
        };
        (name.clone(), context)
    });
    PlanOptions {
        build_args: request.build_args.clone(),
        target: request.target.clone(),
        platform,
        build_platform: Platform::host(),
        labels: request.labels.clone(),
        contexts: contexts.collect(),
    }
}

fn solve_options(request: &Request, tools: &Tools, seal: SealOptions, now: i64) -> solve::Options {
    let jobs = match request.jobs {
        0 => std::thread::available_parallelism().map_or(2, |n| n.get().max(2)),
        n => n,
    };
    let secrets = request.secrets.iter().map(|s| {
        let source = match &s.source {
            request::SecretSource::File(path) => Secret::File(path.clone()),
            request::SecretSource::Value(value) => Secret::Value(value.clone()),
        };
        (s.id.clone(), source)
    });
    solve::Options {
        jobs,
        no_cache: request.no_cache,
        seal,
        now,
        network: request.network,
        hostname: request.hostname.clone(),
        add_hosts: request.add_hosts.clone(),
        resolv_conf: tools.resolv_conf.clone(),
        confinement: request.confinement.clone(),
        secrets: secrets.collect(),
        ssh: request.ssh.iter().cloned().collect(),
        allow_insecure: request.allow.insecure,
        allow_host_network: request.allow.host_network,
    }
}

/// Seconds and nanoseconds since 1970.
fn now() -> (i64, i32) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    (seconds, i32::try_from(since.subsec_nanos()).unwrap_or(0))
}
