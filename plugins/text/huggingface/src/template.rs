//! Chat templates, rendered as the reference does: Jinja with trim_blocks and lstrip_blocks, loop controls, methods of
//! Python's strings, and the functions that templates expect.
use std::fmt;

use minijinja::value::Kwargs;
use minijinja::{context, Environment, Error, ErrorKind, State, Value};
use serde::Serialize;

use crate::error::{invalid, unsupported, Failure, Outcome};
use crate::python;

const NAME: &str = "chat_template";
/// Instructions of one rendering: a template cannot keep a thread forever.
const MOST_INSTRUCTIONS: u64 = 50_000_000;
/// Bytes of a template: several times the longest in use.
const MOST_BYTES: usize = 128 << 10;
/// The parser calls itself for each "not", "-" and "elif" in a row: it gets a stack that the longest such row fits in.
const LEAST_STACK: usize = 1 << 20;
const STACK_PER_BYTE: usize = 1 << 10;

#[derive(Serialize)]
pub struct Message<'a> {
    pub role: &'a str,
    pub content: &'a str,
}

/// Any thread.
pub struct Template {
    environment: Result<Environment<'static>, String>,
    tokens: Value, // "bos_token" and so on
}

/// What a template raised by raise_exception.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
}

/// The local time by the C library's strftime, as Python has it.
fn strftime_now(format: String) -> Result<String, Error> {
    let problem = || Error::new(ErrorKind::InvalidOperation, "strftime_now: the format cannot be used");
    let format = std::ffi::CString::new(format).map_err(|_| problem())?;
    let mut buffer = vec![0u8; 256 + 64 * format.as_bytes().len()];
    // SAFETY: the format is NUL-ended, the buffer as large as said, and localtime_r fills the time it is given.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() {
            return Err(problem());
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &local)
    };
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(|_| problem())
}

fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let ascii = ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = match separators.as_deref() {
        None => None,
        Some([item, key]) => Some((item.clone(), key.clone())),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: \"separators\" is not a pair")),
    };
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(value) if value.is_number() => {
            let count = i64::try_from(value)?.clamp(0, 64);
            Some(" ".repeat(count as usize))
        }
        Some(value) => value.as_str().map(str::to_owned),
        None => None,
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let text = python::Json { ascii, indent, separators, sort_keys }.text(value)?;
    Ok(Value::from_safe_string(text))
}

/// Methods of Python's strings and dictionaries.
fn method(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = |error: &Error| error.kind() == ErrorKind::UnknownMethod;
    match minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments) {
        Err(error) if unknown(&error) => match value.as_str() {
            Some(text) => python::string_method(text, name, arguments),
            None => Err(error),
        },
        other => other,
    }
}

/// {% generation %} blocks, which mark replies for training, render as what they hold.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let inside = &rest[open + 2..open + length];
        let word = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let tag = match word {
            "generation" => inside.replace("generation", "if true"),
            "endgeneration" => inside.replace("endgeneration", "endif"),
            _ => inside.to_owned(),
        };
        out.push_str(&rest[..open + 2]);
        out.push_str(&tag);
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(MOST_INSTRUCTIONS));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| out.write_str(&python::str(value)).map_err(Error::from));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::str(value).into_owned());
    environment.add_template_owned(NAME, without_generation_tags(source))?;
    Ok(environment)
}

/// The environment, made on a stack that grows with the source; else why there is none.
fn compiled(source: &str) -> Result<Environment<'static>, String> {
    if source.len() > MOST_BYTES {
        return Err(format!("the chat template has {} bytes; allowed: at most {MOST_BYTES}", source.len()));
    }
    let builder = std::thread::Builder::new().stack_size(LEAST_STACK + STACK_PER_BYTE * source.len());
    std::thread::scope(|scope| {
        let thread = builder.spawn_scoped(scope, || environment(source).map_err(|error| error.to_string()));
        let made = match thread.map(|thread| thread.join()) {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err("its parser failed".to_owned()),
            Err(error) => Err(format!("no thread to parse it: {error}")),
        };
        made.map_err(|problem| format!("the chat template: {problem}"))
    })
}

/// The message a template raised; else what went wrong and where.
fn failure_of(error: &Error) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return invalid(message.clone());
        }
        source = inner.source();
    }
    let text = format!("the chat template: {error}");
    match error.kind() {
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod => {
            unsupported(text)
        }
        _ => invalid(text),
    }
}

impl Template {
    /// A template that does not parse is an error when it is rendered: the tokenizer works without it.
    pub fn new(source: &str, tokens: &[(String, String)]) -> Template {
        let tokens = tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        Template { environment: compiled(source), tokens }
    }

    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Outcome<String> {
        let environment = self.environment.as_ref().map_err(|problem| unsupported(problem.clone()))?;
        let given = context! {
            messages => Value::from_serialize(messages),
            tools => (),
            documents => (),
            add_generation_prompt,
            ..self.tokens.clone()
        };
        environment.get_template(NAME).and_then(|template| template.render(given)).map_err(|error| failure_of(&error))
    }
}
