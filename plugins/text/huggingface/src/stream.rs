//! Text completed by one token after another.
use crate::decode::Characters;
use crate::error::Outcome;
use crate::pieces::{Invalid, Piece, Pieces};
use crate::text::Text;

/// Ids whose text may still change are held; beyond this many they are given out as they are.
const LONGEST_WINDOW: usize = 64;

/// One thread at a time.
pub struct Stream<'a> {
    text: &'a Text,
    characters: Characters,
    window: Window,
    piece: String, // lent to the caller
}

/// For decoders that look at neighbours: the ids whose text came last, which stand for all before, and those behind
/// them whose text is still held back.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    told: usize, // of ids, whose text was given out
}

impl Window {
    fn push(&mut self, text: &Text, id: u32, out: &mut String) -> Outcome<()> {
        self.ids.push(id);
        let before = text.decode_whole(&self.ids[..self.told])?;
        let now = text.decode_whole(&self.ids)?;
        let waits = now.len() <= before.len() || now.ends_with('\u{FFFD}');
        if waits && self.ids.len() < LONGEST_WINDOW {
            return Ok(());
        }
        out.push_str(now.get(before.len()..).unwrap_or_default());
        self.ids.drain(..self.told);
        self.told = self.ids.len();
        Ok(())
    }
}

impl<'a> Stream<'a> {
    pub fn open(text: &'a Text) -> Outcome<Stream<'a>> {
        let characters = match text.pieces()? {
            Pieces::Each { invalid, strip, .. } => Characters::new(*invalid, *strip),
            Pieces::Whole => Characters::new(Invalid::OnePerSequence, None),
        };
        Ok(Stream { text, characters, window: Window::default(), piece: String::new() })
    }

    /// The text that `id` completes.
    pub fn push(&mut self, id: i32) -> Outcome<&str> {
        let id = self.text.check_id(id)?;
        self.piece.clear();
        match self.text.pieces()? {
            Pieces::Each { by_id, .. } => match by_id.get(&id) {
                Some(Piece::Bytes(bytes)) => self.characters.push_bytes(bytes, &mut self.piece),
                Some(Piece::Text(text)) => self.characters.push_text(text, &mut self.piece),
                None => {}
            },
            Pieces::Whole => self.window.push(self.text, id, &mut self.piece)?,
        }
        Ok(&self.piece)
    }

    /// What is left when no id follows.
    pub fn finish(&mut self) -> &str {
        self.piece.clear();
        self.characters.finish(&mut self.piece);
        &self.piece
    }
}
