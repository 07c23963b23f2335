//! `shiplap index`: several platforms' images under one name.

use clap::{Args, Subcommand};
use serde_json::json;
use shiplap::build::request::{Annotated, Annotation};
use shiplap::image::media_type;
use shiplap::image::{Descriptor, Document};
use shiplap::platform::Platform;
use shiplap::store::Store;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::index::{Entries, IndexEditor};
use shiplap::transport::{self, Location, Selection, Source};

use super::access::{RegistryArgs, Scope};
use super::error::Usage;
use super::transfer::{self, FamilyArg, TransferArgs};
use super::{Format, ProgressArgs, Session, annotations, push};
use crate::ui::{escape, format, output, table};

const EXAMPLES: &str = "\
Examples:
  Two images, built on two machines, under one name
    shiplap index create docker://reg.example/app:1 \\
        docker://reg.example/app:1-amd64 docker://reg.example/app:1-arm64

  In the store, and from there to a registry
    shiplap index create app:1 app:amd64 app:arm64
    shiplap index annotate app:1 --annotation org.opencontainers.image.version=1
    shiplap index push app:1 reg.example/app:1

  What is in it
    shiplap index inspect docker://debian:bookworm

  Without one platform
    shiplap index rm app:1 linux/arm64";

/// Make and change indexes: several platforms' images under one name
///
/// NAME is a name in the store, or another place as for copy, such as
/// docker://NAME; what is changed there is written there.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    Create(Box<CreateArgs>),
    Add(AddArgs),
    Rm(RmArgs),
    Annotate(Box<AnnotateArgs>),
    Inspect(InspectArgs),
    Push(Box<push::PushArgs>),
}

/// Make an index of images
///
/// Of a source that is an index, all images are taken.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct CreateArgs {
    /// Where the index is to be
    name: String,
    /// The images, in the store or in other places
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    #[command(flatten)]
    take: TakeArgs,
    /// Form of the index [default: oci]
    #[arg(short, long, value_enum)]
    format: Option<FamilyArg>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Add images to an index
///
/// An image for a platform that is there takes that one's place.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct AddArgs {
    /// The index
    name: String,
    /// The images, in the store or in other places
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    #[command(flatten)]
    take: TakeArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// What is taken, and how it is marked.
#[derive(Debug, Args)]
struct TakeArgs {
    /// Platforms to take from sources that are indexes [default: all]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Annotation of the index; with manifest-descriptor[OS/ARCH]: before the
    /// key, of an entry
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotations::flag)]
    annotation: Vec<annotations::Several>,
}

/// Take images out of an index
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct RmArgs {
    /// The index
    name: String,
    /// Digests, beginnings of digests, or platforms
    #[arg(required = true, value_name = "DIGEST|OS/ARCH", value_parser = Entries::parse)]
    entries: Vec<Entries>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Annotate an index, or change what it says of an image
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct AnnotateArgs {
    /// The index
    name: String,
    /// The image that is meant: its digest, the beginning of it, or its
    /// platform [default: the index itself]
    #[arg(value_name = "DIGEST|OS/ARCH", value_parser = Entries::parse)]
    entry: Option<Entries>,
    /// Annotation
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::values::key_value)]
    annotation: Vec<(String, String)>,
    /// What the image is for
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse, requires = "entry")]
    platform: Option<Platform>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION", requires = "entry")]
    os_version: Option<String>,
    /// Feature of the operating system that it needs
    #[arg(long, value_name = "FEATURE", requires = "entry")]
    os_feature: Vec<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Show what is in an index
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct InspectArgs {
    /// The index
    name: String,
    /// Print the bytes of the index
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl IndexArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        match self.command {
            IndexCommand::Create(args) => args.run(session),
            IndexCommand::Add(args) => args.run(session),
            IndexCommand::Rm(args) => args.run(session),
            IndexCommand::Annotate(args) => args.run(session),
            IndexCommand::Inspect(args) => args.run(session),
            IndexCommand::Push(args) => args.run(session),
        }
    }
}

/// An index at its place, while it is changed.
struct Desk<'a> {
    session: &'a Session,
    common: &'a CommonArgs,
    store: Store,
    place: Location,
}

impl<'a> Desk<'a> {
    fn new(session: &'a Session, common: &'a CommonArgs, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            session,
            common,
            store: session.store()?,
            place: transfer::location(name)?,
        })
    }

    fn with<T>(
        &self,
        sources: &[Location],
        act: impl FnOnce(&Endpoints<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let places = sources.iter().chain([&self.place]);
        let registries: Vec<&str> = places.filter_map(transfer::registry_of).collect();
        let cancel = self.session.interrupts.cancel();
        let scope = Scope::Registries(&registries);
        let client = self.common.registry.client(scope, cancel)?;
        act(&Endpoints {
            client: &client,
            store: Some(&self.store),
        })
    }

    fn open(&self) -> anyhow::Result<IndexEditor> {
        let source = match &self.place {
            Location::Name(name) => transport::local::open(&self.store, name)?,
            place => self.with(&[], |ends| Ok(ends.open(place)?))?,
        };
        Ok(IndexEditor::open(&source)?)
    }

    fn add(
        &self,
        editor: &mut IndexEditor,
        sources: &[String],
        take: &TakeArgs,
    ) -> anyhow::Result<()> {
        let places: Vec<Location> = sources
            .iter()
            .map(|text| transfer::location(text))
            .collect::<anyhow::Result<_>>()?;
        self.with(&places, |ends| {
            for place in &places {
                editor.add(&ends.open(place)?, &take.platform)?;
            }
            Ok(())
        })?;
        for annotation in take.annotation.iter().flat_map(|several| &several.0) {
            annotate(editor, annotation)?;
        }
        Ok(())
    }

    fn write(&self, editor: IndexEditor, format: Option<FamilyArg>) -> anyhow::Result<()> {
        let name = self.place.to_string();
        let source = editor.finish(&name, format.map(FamilyArg::family));
        let options = self.common.transfer.options(Selection::All, None)?;
        let stream = transfer::is_stream(&self.place)?;
        self.with(&[], |ends| {
            let destination = ends.create(&self.place, || Box::new(std::io::stdout()))?;
            let written = self.common.transfer.deliver(
                self.session,
                &self.common.progress,
                &source,
                &[destination],
                &options,
            )?;
            match written.as_deref() {
                Some([written]) if !stream => output::result(&transfer::line(&self.place, written)),
                _ => Ok(()),
            }
        })
    }
}

/// As a flag of `create` and `add` says. Without a document before the key the
/// index is meant; manifests stay what they are.
fn annotate(editor: &mut IndexEditor, annotation: &Annotation) -> anyhow::Result<()> {
    let (key, value) = (&annotation.key, &annotation.value);
    match (annotation.to, &annotation.platform) {
        (Annotated::Index, _) | (Annotated::Manifest, None) => editor.annotate(key, value),
        (Annotated::ManifestDescriptor, Some(platform)) => {
            editor.change(&Entries::Platform(platform.clone()), |entry| {
                entry.annotations.insert(key.clone(), value.clone());
            })?;
        }
        _ => {
            return Err(Usage::error(format!(
                "{key}: an index has index: and manifest-descriptor[OS/ARCH]: annotations"
            )));
        }
    }
    Ok(())
}

impl CreateArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let desk = Desk::new(session, &self.common, &self.name)?;
        let mut editor = IndexEditor::default();
        desk.add(&mut editor, &self.sources, &self.take)?;
        desk.write(editor, self.format)
    }
}

impl AddArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let desk = Desk::new(session, &self.common, &self.name)?;
        let mut editor = desk.open()?;
        desk.add(&mut editor, &self.sources, &self.take)?;
        desk.write(editor, None)
    }
}

impl RmArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let desk = Desk::new(session, &self.common, &self.name)?;
        let mut editor = desk.open()?;
        for entries in &self.entries {
            editor.remove(entries)?;
        }
        desk.write(editor, None)
    }
}

impl AnnotateArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let desk = Desk::new(session, &self.common, &self.name)?;
        let mut editor = desk.open()?;
        match &self.entry {
            None => {
                for (key, value) in &self.annotation {
                    editor.annotate(key, value);
                }
            }
            Some(entries) => editor.change(entries, |entry| self.apply(entry))?,
        }
        desk.write(editor, None)
    }

    fn apply(&self, entry: &mut Descriptor) {
        for (key, value) in &self.annotation {
            entry.annotations.insert(key.clone(), value.clone());
        }
        if let Some(platform) = &self.platform {
            entry.platform = Some(platform.clone());
        }
        if let Some(platform) = &mut entry.platform {
            if let Some(version) = &self.os_version {
                platform.os_version = Some(version.clone());
            }
            platform.os_features.extend(self.os_feature.iter().cloned());
        }
    }
}

impl InspectArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let place = transfer::location(&self.name)?;
        let store = session.store()?;
        let (place, _spool) = transfer::readable(place, &store)?;
        let registries: Vec<&str> = transfer::registry_of(&place).into_iter().collect();
        let cancel = session.interrupts.cancel();
        let scope = Scope::Registries(&registries);
        let client = self.registry.client(scope, cancel)?;
        let ends = Endpoints {
            client: &client,
            store: Some(&store),
        };
        let source = ends.open(&place)?;
        if self.raw {
            return output::result_bytes(&source.bytes);
        }
        self.show(&source)
    }

    fn show(&self, source: &Source) -> anyhow::Result<()> {
        let index = match Document::parse(&source.bytes)? {
            Document::Index(index) => *index,
            Document::Manifest(_) => anyhow::bail!("{} is one image, no index", source.name),
        };
        if self.format == Format::Json {
            let value = json!({
                "name": source.name,
                "digest": source.descriptor.digest,
                "media_type": source.descriptor.media_type,
                "annotations": index.annotations,
                "manifests": index.manifests,
            });
            return output::json(&value);
        }
        let mut text = format!(
            "Name:    {}\nDigest:  {}\nType:    {}\n",
            escape::text(&source.name),
            source.descriptor.digest,
            escape::text(&source.descriptor.media_type),
        );
        for (key, value) in &index.annotations {
            text.push_str(&format!(
                "         {}\n",
                escape::text(&format!("{key}={value}"))
            ));
        }
        let rows: Vec<[String; 4]> = index.manifests.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table::table(["PLATFORM", "KIND", "SIZE", "DIGEST"], &rows));
        for entry in &index.manifests {
            for (key, value) in &entry.annotations {
                let line = format!("{}: {key}={value}", entry.digest.short());
                text.push_str(&format!("{}\n", escape::text(&line)));
            }
        }
        output::result(&text)
    }
}

fn row(entry: &Descriptor) -> [String; 4] {
    let attests = entry
        .annotations
        .get("vnd.docker.reference.type")
        .is_some_and(|kind| kind == "attestation-manifest");
    let kind = match entry.media_type.as_str() {
        _ if attests => "attestation",
        kind if media_type::is_index(kind) => "index",
        kind if media_type::is_manifest(kind) => "image",
        _ => "other",
    };
    let platform = entry.platform.as_ref().map(ToString::to_string);
    [
        escape::text(&platform.unwrap_or_else(|| "-".into())).to_string(),
        kind.into(),
        format::size(entry.size),
        entry.digest.to_string(),
    ]
}
