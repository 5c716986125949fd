//! Bytes to whole characters, as they come.
use crate::pieces::{Invalid, Strip};

const REPLACEMENT: char = '\u{FFFD}';

/// Gathers text of tokens; constant work a byte.
pub struct Characters {
    invalid: Invalid,
    strip: Option<Strip>,
    pending: Vec<u8>, // the start of a character
}

impl Characters {
    pub fn new(invalid: Invalid, strip: Option<Strip>) -> Characters {
        Characters { invalid, strip, pending: Vec::new() }
    }

    fn put(&mut self, text: &str, out: &mut String) {
        let mut rest = text;
        while let Some(Strip { content, count }) = self.strip {
            let Some(first) = rest.chars().next() else { return };
            let dropped = first == content && count > 0;
            self.strip = dropped.then_some(Strip { content, count: count - usize::from(dropped) });
            if dropped {
                rest = &rest[first.len_utf8()..];
            }
        }
        out.push_str(rest);
    }

    fn put_invalid(&mut self, bytes: usize, out: &mut String) {
        let times = if self.invalid == Invalid::OnePerByte { bytes } else { 1 };
        for _ in 0..times {
            self.put(REPLACEMENT.encode_utf8(&mut [0; 4]), out);
        }
    }

    /// Appends the characters that `bytes` completes to `out`.
    pub fn push_bytes(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        loop {
            let (valid, broken) = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.put(text, out);
                    break;
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            let (text, tail) = rest.split_at(valid);
            self.put(std::str::from_utf8(text).unwrap_or_default(), out);
            let Some(length) = broken else {
                self.pending.extend_from_slice(tail); // may yet become a character
                break;
            };
            self.put_invalid(length, out);
            rest = &tail[length..];
        }
    }

    /// Appends text; bytes before it become no character any more.
    pub fn push_text(&mut self, text: &str, out: &mut String) {
        self.finish(out);
        self.put(text, out);
    }

    /// Appends what the bytes held back decode to when nothing follows them.
    pub fn finish(&mut self, out: &mut String) {
        let held = std::mem::take(&mut self.pending).len();
        if held > 0 {
            self.put_invalid(held, out);
        }
    }
}
