//! Where the parts of the picture are.

use ratatui::layout::Rect;

/// What the keys act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Layers,
    Files,
}

/// Parts of the screen; what has no room is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Places {
    pub(crate) title: Rect,
    pub(crate) layers: Option<Rect>,
    pub(crate) files: Option<Rect>,
    pub(crate) details: Option<Rect>,
    pub(crate) status: Rect,
}

/// Columns below which only the part with the focus is shown.
const BOTH: u16 = 70;
/// The smallest screen that anything is shown on.
const LEAST: (u16, u16) = (16, 5);

impl Places {
    /// `None` where the screen is too small.
    pub(crate) fn of(width: u16, height: u16, layers: usize, focus: Focus) -> Option<Self> {
        if width < LEAST.0 || height < LEAST.1 {
            return None;
        }
        let line = |y| Rect::new(0, y, width, 1);
        let body = Rect::new(0, 1, width, height - 2);
        let mut places = Self {
            title: line(0),
            status: line(height - 1),
            ..Self::default()
        };
        let wide = width >= BOTH;
        let left = match wide {
            true => (width * 2 / 5).min(72),
            false => width,
        };
        let right = width - left;
        let details = match (wide, body.height) {
            (_, ..14) => 0,
            // The layers have what they need, and three fifths at most.
            (true, height) => {
                let wants = u16::try_from(layers.saturating_add(3)).unwrap_or(u16::MAX);
                height - wants.clamp(5, (height * 3 / 5).max(5))
            }
            (false, 14..22) => 7,
            (false, _) => 10,
        };
        let upper = Rect::new(0, body.y, left, body.height - details);
        places.details = (details > 0).then(|| Rect::new(0, upper.bottom(), left, details));
        if wide {
            places.layers = Some(upper);
            places.files = Some(Rect::new(left, body.y, right, body.height));
        } else if focus == Focus::Layers {
            places.layers = Some(upper);
        } else {
            places.files = Some(upper);
        }
        Some(places)
    }
}

/// Lines inside the border of a part.
pub(crate) fn lines(place: Option<Rect>) -> usize {
    place.map_or(0, |p| usize::from(p.height.saturating_sub(2)))
}
