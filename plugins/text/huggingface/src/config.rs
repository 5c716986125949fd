//! What tokenizer_config.json, special_tokens_map.json and chat_template.jinja say.
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{corrupt, Outcome};

const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

#[derive(Default)]
pub struct Config {
    /// "bos_token" and so on to its text, for templates.
    pub named: Vec<(String, String)>,
    /// The named tokens and the extra special ones.
    pub special: Vec<AddedToken>,
    /// "added_tokens_decoder" by id.
    pub added: BTreeMap<u32, AddedToken>,
    /// add_bos_token and add_eos_token, where the file holds either: then they take the place of the post-processor.
    pub ends: Option<(bool, bool)>,
    pub chat_template: Option<String>,
}

pub type Files<'a> = [(&'a str, &'a [u8])];

pub fn file<'a>(files: &Files<'a>, name: &str) -> Option<&'a [u8]> {
    files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| *bytes)
}

fn object(files: &Files, name: &str) -> Outcome<Map<String, Value>> {
    let Some(bytes) = file(files, name) else { return Ok(Map::new()) };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(corrupt(format!("{name} is not a JSON object"))),
        Err(error) => Err(corrupt(format!("{name} is not JSON: {error}"))),
    }
}

/// A token as text or as an object of its properties.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str, missing: bool| value.get(name).and_then(Value::as_bool).unwrap_or(missing);
    match value {
        Value::String(text) => Some(AddedToken::from(text.clone(), special)),
        Value::Object(fields) => {
            let special = flag("special", false) || special;
            let token = AddedToken::from(fields.get("content")?.as_str()?, special)
                .single_word(flag("single_word", false))
                .lstrip(flag("lstrip", false))
                .rstrip(flag("rstrip", false))
                .normalized(flag("normalized", !special));
            Some(token)
        }
        _ => None,
    }
}

/// The template, or of a list of {"name", "template"} the one named "default".
fn template_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let default = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
            default.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

pub fn read(files: &Files) -> Outcome<Config> {
    let config = object(files, "tokenizer_config.json")?;
    let map = object(files, "special_tokens_map.json")?;
    let mut out = Config::default();
    for name in NAMED_TOKENS {
        // A token that the config sets, be it to null, is not looked up in the older file.
        let Some(token) = config.get(name).or_else(|| map.get(name)).and_then(|value| token(value, true)) else {
            continue;
        };
        out.named.push((name.to_owned(), token.content.clone()));
        out.special.push(token);
    }
    for name in ["additional_special_tokens", "extra_special_tokens"] {
        let list = config.get(name).or_else(|| map.get(name)).and_then(Value::as_array);
        out.special.extend(list.into_iter().flatten().filter_map(|value| token(value, true)));
    }
    if let Some(Value::Object(added)) = config.get("added_tokens_decoder") {
        for (id, value) in added {
            let (Ok(id), Some(token)) = (id.parse(), token(value, false)) else {
                return Err(corrupt(format!("tokenizer_config.json: added_tokens_decoder: \"{id}\" is no token")));
            };
            out.added.insert(id, token);
        }
    }
    let flag = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
    if config.contains_key("add_bos_token") || config.contains_key("add_eos_token") {
        out.ends = Some((flag("add_bos_token"), flag("add_eos_token")));
    }
    out.chat_template = config.get("chat_template").and_then(template_of);
    if let Some(bytes) = file(files, "chat_template.jinja") {
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("chat_template.jinja is not UTF-8"))?;
        out.chat_template = Some(text.to_owned()); // newer than the field of the config
    }
    Ok(out)
}
