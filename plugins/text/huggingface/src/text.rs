//! A model's tokenizer and template: what xh_text is.
use std::sync::OnceLock;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::bindings::{XH_INTERNAL, XH_NOT_FOUND};
use crate::config::{self, Config, Files};
use crate::error::{corrupt, failure, invalid, unsupported, Outcome};
use crate::pieces::Pieces;
use crate::stream::Stream;
use crate::template::{Message, Template};

pub const MAIN_FILE: &str = "tokenizer.json";

/// Immutable after `open`: any thread.
pub struct Text {
    tokenizer: Option<Tokenizer>, // None: without tokenizer.json, for the template alone
    vocab_size: i64,
    template: Option<Template>,
    pieces: OnceLock<Pieces>,
}

fn internal(what: &str, error: tokenizers::Error) -> crate::error::Failure {
    failure(XH_INTERNAL, format!("{what}: {error}"))
}

/// Tokens of tokenizer_config.json that the text may hold as themselves. One that is in no vocabulary would get an id
/// that the model has no row for: it is left out.
fn add_tokens(tokenizer: &mut Tokenizer, config: &Config) -> Outcome<()> {
    let known = |tokenizer: &Tokenizer, token: &AddedToken| tokenizer.token_to_id(&token.content).is_some();
    for (id, token) in &config.added {
        let next = next_id(tokenizer);
        if known(tokenizer, token) || *id == next {
            tokenizer.add_tokens([token.clone()]).map_err(|error| corrupt(format!("{MAIN_FILE}: {error}")))?;
        }
    }
    let special: Vec<_> = config.special.iter().filter(|token| known(tokenizer, token)).cloned().collect();
    tokenizer.add_special_tokens(special).map_err(|error| corrupt(format!("{MAIN_FILE}: {error}")))?;
    Ok(())
}

fn next_id(tokenizer: &Tokenizer) -> u32 {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let behind = added.keys().max().map_or(0, |id| id.saturating_add(1));
    behind.max(tokenizer.get_vocab_size(false) as u32)
}

/// add_bos_token and add_eos_token of tokenizer_config.json, where given, replace the post-processor of the file.
fn set_ends(tokenizer: &mut Tokenizer, config: &Config) -> Outcome<()> {
    let Some((bos, eos)) = config.ends else { return Ok(()) };
    let named = |wanted: bool, name: &str| {
        let text = config.named.iter().find(|(other, _)| wanted && other == name).map(|(_, text)| text.clone());
        text.and_then(|text| tokenizer.token_to_id(&text).map(|id| (text, id)))
    };
    let (first, last) = (named(bos, "bos_token"), named(eos, "eos_token"));
    let mut parts: Vec<String> = Vec::new();
    parts.extend(first.iter().map(|(text, _)| text.clone()));
    parts.push("$A".to_owned());
    parts.extend(last.iter().map(|(text, _)| text.clone()));
    let tokens: Vec<(String, u32)> = first.into_iter().chain(last).collect();
    let processor = TemplateProcessing::builder()
        .try_single(parts)
        .and_then(|builder| builder.special_tokens(tokens).build().map_err(|error| error.to_string()))
        .map_err(|error| corrupt(format!("tokenizer_config.json: its bos_token or eos_token: {error}")))?;
    tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(processor)));
    Ok(())
}

fn read_tokenizer(bytes: &[u8], config: &Config) -> Outcome<Tokenizer> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| corrupt(format!("{MAIN_FILE} is not UTF-8 at byte {}", error.valid_up_to())))?;
    let mut tokenizer: Tokenizer =
        text.parse().map_err(|error| corrupt(format!("{MAIN_FILE} is not a tokenizer: {error}")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| corrupt(format!("{MAIN_FILE}: {error}")))?;
    add_tokens(&mut tokenizer, config)?;
    set_ends(&mut tokenizer, config)?;
    Ok(tokenizer)
}

/// One more than the largest id; ids between may name nothing.
fn vocab_size_of(tokenizer: &Tokenizer) -> Outcome<i64> {
    let largest = tokenizer.get_vocab(true).into_values().max();
    let Some(largest) = largest else { return Err(corrupt(format!("{MAIN_FILE} holds no tokens"))) };
    i32::try_from(largest)
        .map(|id| i64::from(id) + 1)
        .map_err(|_| corrupt(format!("{MAIN_FILE}: token id {largest}; allowed: 0 to {}", i32::MAX)))
}

impl Text {
    pub fn open(files: &Files) -> Outcome<Text> {
        let config = config::read(files)?;
        let (mut tokenizer, mut vocab_size) = (None, 0);
        if let Some(bytes) = config::file(files, MAIN_FILE) {
            let read = read_tokenizer(bytes, &config)?;
            vocab_size = vocab_size_of(&read)?;
            tokenizer = Some(read);
        }
        let template = config.chat_template.as_deref().map(|text| Template::new(text, &config.named));
        Ok(Text { tokenizer, vocab_size, template, pieces: OnceLock::new() })
    }

    pub fn vocab_size(&self) -> i64 {
        self.vocab_size
    }

    pub fn tokenizer(&self) -> Outcome<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| unsupported(format!("the model has no {MAIN_FILE}")))
    }

    /// What each id decodes to.
    pub fn pieces(&self) -> Outcome<&Pieces> {
        let tokenizer = self.tokenizer()?;
        Ok(self.pieces.get_or_init(|| Pieces::of(tokenizer)))
    }

    pub fn encode(&self, text: &str, add_special: bool) -> Outcome<Vec<i32>> {
        let encoding =
            self.tokenizer()?.encode_fast(text, add_special).map_err(|error| internal("encoding failed", error))?;
        Ok(encoding.get_ids().iter().map(|id| *id as i32).collect())
    }

    pub fn check_id(&self, id: i32) -> Outcome<u32> {
        match u32::try_from(id) {
            Ok(valid) if i64::from(id) < self.vocab_size => Ok(valid),
            _ => Err(invalid(format!("token id {id}; allowed: 0 to {}", self.vocab_size - 1))),
        }
    }

    /// The same as a stream of the ids gives, with what it still holds back at the end.
    pub fn decode(&self, ids: &[i32]) -> Outcome<String> {
        if let Pieces::Whole = self.pieces()? {
            let ids = ids.iter().map(|id| self.check_id(*id)).collect::<Outcome<Vec<_>>>()?;
            return self.decode_whole(&ids);
        }
        let mut stream = Stream::open(self)?;
        let mut out = String::with_capacity(ids.len() * 4);
        for id in ids {
            out.push_str(stream.push(*id)?);
        }
        out.push_str(stream.finish());
        Ok(out)
    }

    /// By the library's own decoder.
    pub fn decode_whole(&self, ids: &[u32]) -> Outcome<String> {
        self.tokenizer()?.decode(ids, false).map_err(|error| internal("decoding failed", error))
    }

    pub fn special(&self, token: &str) -> Outcome<i32> {
        let id = self.tokenizer()?.token_to_id(token).and_then(|id| i32::try_from(id).ok());
        id.ok_or_else(|| failure(XH_NOT_FOUND, format!("the vocabulary has no token \"{token}\"")))
    }

    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Outcome<String> {
        let template = self.template.as_ref().ok_or_else(|| unsupported("the model has no chat template"))?;
        template.render(messages, add_generation_prompt)
    }
}
