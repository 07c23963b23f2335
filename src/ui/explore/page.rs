//! The same picture as one page for a browser: no other file, no network.
//!
//! Names come from the image and are hostile until escaped. In the page's text
//! they are; as data they are JSON in which no `<` is left, and the script
//! puts them into the page as text only. The policy in the page's head allows
//! that script and that style and nothing else, by their digests.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use shiplap::digest::Sha256;

use super::picture::{Contents, Outline, one_line};
use super::walk::Columns;
use crate::ui::lazy::Lazy;
use crate::ui::{escape, format};

const STYLE: &str = include_str!("../page/page.css");
const SCRIPT: &str = include_str!("../page/page.js");
const FILES: &str = include_str!("../page/page.html");

/// Wasted paths that are listed.
pub(crate) const MOST_WASTED: usize = 100;

/// What the script is given.
#[derive(Serialize)]
struct Data<'a, C: Serialize> {
    #[serde(flatten)]
    image: &'a Outline,
    files: &'a Columns<'a>,
    changes: C,
}

/// Writes the page.
///
/// # Errors
/// When it can't be written, or the layers can't be read any more.
pub(crate) fn page(outline: &Outline, contents: &Contents, out: &mut dyn Write) -> io::Result<()> {
    let columns = Columns::of(&contents.tree)?;
    let data = Data {
        image: outline,
        files: &columns,
        changes: Lazy(|| (0..contents.tree.layers()).map(|layer| columns.changes(layer))),
    };
    let name = html(&outline.name);
    out.write_all(b"<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
    writeln!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'\">",
        source(STYLE),
        source(SCRIPT)
    )?;
    out.write_all(
        b"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
          <meta name=\"referrer\" content=\"no-referrer\">\n",
    )?;
    writeln!(out, "<title>{name}</title>\n<style>{STYLE}</style>")?;
    writeln!(out, "</head>\n<body>\n<h1>{name}</h1>")?;
    let parts = [
        &summary(outline, contents),
        &layers(outline, contents),
        FILES,
        &wasted(contents),
    ];
    for part in parts {
        out.write_all(part.as_bytes())?;
    }
    out.write_all(b"<script type=\"application/json\" id=\"data\">")?;
    serde_json::to_writer(Harmless(out), &data)?;
    write!(
        out,
        "</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

/// Writes JSON so that it can't end the element it is in, and nothing in it
/// turns the direction of writing. What is replaced is only in strings.
struct Harmless<'a>(&'a mut dyn Write);

impl Write for Harmless<'_> {
    /// Takes whole characters, as a serializer of JSON gives them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_plain = |b: &u8| (b' '..=b'~').contains(b) && *b != b'<';
        if bytes.iter().all(is_plain) {
            self.0.write_all(bytes)?;
            return Ok(bytes.len());
        }
        let text = std::str::from_utf8(bytes);
        let text = text.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        for c in text.chars() {
            match c {
                c if c == '<' || escape::is_dangerous(c) => {
                    write!(self.0, "\\u{:04x}", u32::from(c))?;
                }
                c => self.0.write_all(c.encode_utf8(&mut [0; 4]).as_bytes())?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A script or a style in a content security policy.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::of(text.as_bytes()).0))
}

/// Text of a page, on one line, with what is not visible made so.
fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape::text(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The colour of a layer; the script has the same.
fn color(layer: usize) -> String {
    let hue = (layer as f64 * 137.508 + 210.0) % 360.0;
    format!("hsl({hue:.0} 55% 70%)")
}

fn summary(outline: &Outline, contents: &Contents) -> String {
    let mut fields = vec![
        (
            "size",
            format!(
                "{} in {} layers, {} unpacked",
                format::size(outline.size()),
                outline.layers.len(),
                format::size(contents.unpacked())
            ),
        ),
        ("wasted", contents.wasted()),
        ("platform", outline.platform.clone()),
        ("digest", outline.digest.clone()),
    ];
    fields.extend(outline.created.clone().map(|time| ("created", time)));
    fields.extend(contents.problems().map(|text| ("problems", text)));
    let mut out = String::from("<dl>\n");
    for (name, value) in fields {
        out.push_str(&format!("<dt>{name}</dt><dd>{}</dd>\n", html(&value)));
    }
    out.push_str("</dl>\n");
    out
}

fn layers(outline: &Outline, contents: &Contents) -> String {
    let mut out = String::from("<h2>Layers</h2>\n<svg class=\"stack\" aria-hidden=\"true\">");
    let mut begins = 0.0;
    for number in 0..outline.layers.len() {
        let share = outline.share(number) * 100.0;
        out.push_str(&format!(
            "<rect x=\"{begins:.3}%\" width=\"{share:.3}%\" height=\"100%\" fill=\"{}\"/>",
            color(number)
        ));
        begins += share;
    }
    out.push_str(
        "</svg>\n<div class=\"scroll\"><table id=\"layers\">\n<thead><tr><th class=\"n\">layer</th>\
         <th class=\"n\">size</th><th class=\"n\">share</th><th class=\"n\">unpacked</th>\
         <th class=\"n\">added</th><th class=\"n\">changed</th><th class=\"n\">removed</th>\
         <th>made by</th><th>digest</th></tr></thead>\n<tbody>\n",
    );
    for (number, layer) in outline.layers.iter().enumerate() {
        let did = contents.layers.get(number).copied().unwrap_or_default();
        let unpacked = contents.tar_bytes.get(number).copied().unwrap_or(0);
        let share = outline.share(number) * 100.0;
        out.push_str(&format!(
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">\
             <svg class=\"bar\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"all\" width=\"100\" height=\"10\"/>\
             <rect width=\"{share:.2}\" height=\"10\" fill=\"{}\"/></svg> {share:.1}%</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"text mono\">{}</td>\
             <td class=\"mono short\" title=\"{}\">{}</td></tr>\n",
            number + 1,
            format::size(layer.size),
            color(number),
            format::size(unpacked),
            did.added,
            did.changed,
            did.removed,
            html(&one_line(&layer.instruction)),
            html(&layer.digest),
            html(layer.digest.get(..19).unwrap_or(&layer.digest)),
        ));
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

fn wasted(contents: &Contents) -> String {
    let waste = &contents.waste;
    let mut out = String::from("<h2>Wasted</h2>\n");
    if waste.paths.is_empty() {
        out.push_str("<p>Nothing is written that a later layer overwrites or removes.</p>\n");
        return out;
    }
    out.push_str(&format!(
        "<p>{} of files that a later layer overwrites or removes.",
        format::size(waste.bytes)
    ));
    if waste.count > MOST_WASTED {
        out.push_str(&format!(
            " The largest {MOST_WASTED} of {} paths:",
            waste.count
        ));
    }
    out.push_str(
        "</p>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"n\">wasted</th>\
         <th class=\"n\">files</th><th>in the end</th><th>path</th></tr></thead>\n<tbody>\n",
    );
    for wasted in waste.paths.iter().take(MOST_WASTED) {
        let path = contents.tree.path(wasted.node);
        out.push_str(&format!(
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td>\
             <td class=\"text mono\">/{}</td></tr>\n",
            format::size(wasted.bytes),
            wasted.files,
            if wasted.is_removed(&contents.tree) {
                "removed"
            } else {
                "there"
            },
            html(&path.to_string_lossy()),
        ));
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}
