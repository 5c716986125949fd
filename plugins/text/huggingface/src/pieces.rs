//! What each token decodes to, for decoders that treat tokens one by one.
use std::collections::HashMap;

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::Tokenizer;

/// The text of one token.
#[derive(Debug, PartialEq)]
pub enum Piece {
    Bytes(Box<[u8]>), // may be part of a character
    Text(Box<str>),
}

/// What becomes of bytes that are no character.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Invalid {
    OnePerSequence, // one U+FFFD for a broken sequence, as byte-level decoders write it
    OnePerByte,     // one for each byte, as byte-fallback decoders do
}

/// How many of which character are dropped from the start of the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strip {
    pub content: char,
    pub count: usize,
}

pub enum Pieces {
    Each {
        by_id: HashMap<u32, Piece>,
        invalid: Invalid,
        strip: Option<Strip>,
    },
    /// The decoder looks at neighbours: the library decodes.
    Whole,
}

/// The characters that stand for bytes in byte-level vocabularies: printable ones for themselves, the others from
/// U+0100 on, in order.
fn byte_of() -> HashMap<char, u8> {
    let mut map = HashMap::new();
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let itself = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if itself { u32::from(byte) } else { next };
        next += u32::from(!itself);
        map.insert(char::from_u32(code).expect("below the surrogates"), byte);
    }
    map
}

/// "<0xE2>" as a byte.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// A decoder of byte-fallback vocabularies: replacements in each token, bytes, one text, a strip at its start.
struct Fallback {
    replace: Vec<(String, String)>,
    strip: Option<Strip>,
}

/// None for a chain of any other form.
fn fallback_of(decoder: &Value) -> Option<Fallback> {
    let mut steps = decoder.get("decoders")?.as_array()?.iter().peekable();
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(str::to_owned);
    let mut replace = Vec::new();
    while let Some(step) = steps.next_if(|step| kind(step).as_deref() == Some("Replace")) {
        let pattern = step.get("pattern")?.get("String")?.as_str()?;
        replace.push((pattern.to_owned(), step.get("content")?.as_str()?.to_owned()));
    }
    if kind(steps.next()?)? != "ByteFallback" || kind(steps.next()?)? != "Fuse" {
        return None;
    }
    let Some(last) = steps.next() else { return Some(Fallback { replace, strip: None }) };
    let plain = kind(last)? == "Strip" && last.get("stop")?.as_u64()? == 0 && steps.next().is_none();
    let content = last.get("content")?.as_str()?.chars().next()?;
    let strip = Strip { content, count: usize::try_from(last.get("start")?.as_u64()?).ok()? };
    plain.then_some(Fallback { replace, strip: Some(strip) })
}

impl Pieces {
    pub fn of(tokenizer: &Tokenizer) -> Pieces {
        let ids = || tokenizer.get_vocab(true).into_values();
        let token_of = |id: u32| tokenizer.id_to_token(id).unwrap_or_default();
        let Some(decoder) = tokenizer.get_decoder() else { return Pieces::Whole };
        if let DecoderWrapper::ByteLevel(_) = decoder {
            let bytes = byte_of();
            let piece = |token: &str| {
                let mapped: Option<Vec<u8>> = token.chars().map(|c| bytes.get(&c).copied()).collect();
                Piece::Bytes(mapped.unwrap_or_else(|| token.as_bytes().to_vec()).into())
            };
            let by_id = ids().map(|id| (id, piece(&token_of(id)))).collect();
            return Pieces::Each { by_id, invalid: Invalid::OnePerSequence, strip: None };
        }
        let Some(chain) = serde_json::to_value(decoder).ok().as_ref().and_then(fallback_of) else {
            return Pieces::Whole;
        };
        let piece = |mut token: String| {
            for (pattern, content) in &chain.replace {
                token = token.replace(pattern, content);
            }
            match fallback_byte(&token) {
                Some(byte) => Piece::Bytes([byte].into()),
                None => Piece::Text(token.into()),
            }
        };
        let by_id = ids().map(|id| (id, piece(token_of(id)))).collect();
        Pieces::Each { by_id, invalid: Invalid::OnePerByte, strip: chain.strip }
    }
}
