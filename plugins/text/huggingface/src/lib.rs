//! The tokenizer of models that ship a tokenizer.json, and the Jinja engine for chat templates, behind xh_text_table.
//!
//! What crosses the C interface is here: pointers become slices, errors become xh_error, and no panic passes.
mod bindings;
mod config;
mod decode;
mod error;
mod pieces;
mod python;
mod stream;
mod template;
mod text;

use std::ffi::{c_char, c_void, CStr};

use bindings::*;
use error::{guard, invalid, opened, Outcome};
use stream::Stream;
use template::Message;
use text::Text;

/// `count` elements at `data`; nothing is read where `count` is zero.
///
/// # Safety
/// `data` points to `count` readable elements that live for `'a`.
unsafe fn slice<'a, T>(data: *const T, count: i64, what: &str) -> Outcome<&'a [T]> {
    let length =
        usize::try_from(count).map_err(|_| invalid(format!("{what}: the count is {count}; allowed: from 0")))?;
    match (length, data.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(invalid(format!("{what}: the pointer is NULL"))),
        _ => Ok(std::slice::from_raw_parts(data, length)),
    }
}

/// # Safety
/// `text` is NULL or NUL-ended and lives for `'a`.
unsafe fn string<'a>(text: *const c_char, what: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(invalid(format!("{what}: the pointer is NULL")));
    }
    utf8(CStr::from_ptr(text).to_bytes(), what)
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Outcome<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| invalid(format!("{what} is not UTF-8 at byte {}", error.valid_up_to())))
}

/// # Safety
/// `object` is NULL or was made by this plugin and lives for `'a`.
unsafe fn object<'a, T>(object: *const c_void, what: &str) -> Outcome<&'a T> {
    (object as *const T).as_ref().ok_or_else(|| invalid(format!("{what}: the pointer is NULL")))
}

/// Writes as much of `from` as `capacity` allows and how much there is.
///
/// # Safety
/// `out` has room for `capacity` elements, `size` for one.
unsafe fn fill<T: Copy>(from: &[T], out: *mut T, capacity: i64, size: *mut i64) -> Outcome<()> {
    let room =
        usize::try_from(capacity).map_err(|_| invalid(format!("the capacity is {capacity}; allowed: from 0")))?;
    if size.is_null() || (out.is_null() && room > 0) {
        return Err(invalid("an output pointer is NULL"));
    }
    let written = room.min(from.len());
    if written > 0 {
        std::ptr::copy_nonoverlapping(from.as_ptr(), out, written);
    }
    *size = from.len() as i64;
    Ok(())
}

unsafe extern "C" fn open(files: *const xh_text_file, count: i64, out: *mut *mut xh_text) -> *mut xh_error {
    opened(|| {
        let mut given = Vec::new();
        for file in slice(files, count, "files")? {
            let name = string(file.name, "the name of a file")?;
            given.push((name, slice(file.bytes as *const u8, file.size, name)?));
        }
        if out.is_null() {
            return Err(invalid("open: the output pointer is NULL"));
        }
        *out = Box::into_raw(Box::new(Text::open(&given)?)) as *mut xh_text;
        Ok(())
    })
}

unsafe extern "C" fn close(text: *mut xh_text) {
    if !text.is_null() {
        drop(Box::from_raw(text as *mut Text));
    }
}

unsafe extern "C" fn vocab_size(text: *const xh_text) -> i64 {
    (text as *const Text).as_ref().map_or(0, Text::vocab_size)
}

unsafe extern "C" fn encode(
    text: *const xh_text,
    bytes: *const c_char,
    size: i64,
    add_special: i32,
    ids: *mut i32,
    capacity: i64,
    count: *mut i64,
) -> *mut xh_error {
    guard(|| {
        let text: &Text = object(text as *const c_void, "encode")?;
        let input = utf8(slice(bytes as *const u8, size, "the text")?, "the text")?;
        fill(&text.encode(input, add_special != 0)?, ids, capacity, count)
    })
}

unsafe extern "C" fn decode(
    text: *const xh_text,
    ids: *const i32,
    count: i64,
    out: *mut c_char,
    capacity: i64,
    size: *mut i64,
) -> *mut xh_error {
    guard(|| {
        let text: &Text = object(text as *const c_void, "decode")?;
        let decoded = text.decode(slice(ids, count, "the ids")?)?;
        fill(decoded.as_bytes(), out as *mut u8, capacity, size)
    })
}

unsafe extern "C" fn special(text: *const xh_text, token: *const c_char, id: *mut i32) -> *mut xh_error {
    guard(|| {
        let text: &Text = object(text as *const c_void, "special")?;
        let found = text.special(string(token, "the token")?)?;
        *id.as_mut().ok_or_else(|| invalid("special: the output pointer is NULL"))? = found;
        Ok(())
    })
}

unsafe extern "C" fn stream_open(text: *const xh_text, out: *mut *mut xh_text_stream) -> *mut xh_error {
    guard(|| {
        let text: &'static Text = object(text as *const c_void, "stream_open")?; // the host closes the stream first
        let out = out.as_mut().ok_or_else(|| invalid("stream_open: the output pointer is NULL"))?;
        *out = Box::into_raw(Box::new(Stream::open(text)?)) as *mut xh_text_stream;
        Ok(())
    })
}

unsafe extern "C" fn stream_push(
    stream: *mut xh_text_stream,
    id: i32,
    piece: *mut *const c_char,
    size: *mut i64,
) -> *mut xh_error {
    guard(|| {
        let stream = (stream as *mut Stream).as_mut().ok_or_else(|| invalid("stream_push: the stream is NULL"))?;
        if piece.is_null() || size.is_null() {
            return Err(invalid("stream_push: an output pointer is NULL"));
        }
        let added = stream.push(id)?;
        *size = added.len() as i64;
        *piece = added.as_ptr() as *const c_char;
        Ok(())
    })
}

unsafe extern "C" fn stream_close(stream: *mut xh_text_stream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream as *mut Stream));
    }
}

unsafe extern "C" fn render(
    text: *const xh_text,
    messages: *const xh_message,
    count: i64,
    add_generation_prompt: i32,
    out: *mut c_char,
    capacity: i64,
    size: *mut i64,
) -> *mut xh_error {
    guard(|| {
        let text: &Text = object(text as *const c_void, "render")?;
        let mut given = Vec::new();
        for message in slice(messages, count, "the messages")? {
            let role = string(message.role, "the role of a message")?;
            given.push(Message { role, content: string(message.content, "the content of a message")? });
        }
        let rendered = text.render(&given, add_generation_prompt != 0)?;
        fill(rendered.as_bytes(), out as *mut u8, capacity, size)
    })
}

const ABI_VERSION: u32 = (XH_ABI_MAJOR << 16) | XH_ABI_MINOR;
const RELEASE: &str = concat!(env!("XHYBRID_RELEASE"), "\0");

static TABLE: xh_text_table = xh_text_table {
    struct_size: size_of::<xh_text_table>() as u32,
    reserved: 0,
    main_file: c"tokenizer.json".as_ptr(),
    open: Some(open),
    close: Some(close),
    vocab_size: Some(vocab_size),
    encode: Some(encode),
    decode: Some(decode),
    special: Some(special),
    stream_open: Some(stream_open),
    stream_push: Some(stream_push),
    stream_close: Some(stream_close),
    render: Some(render),
};

static PLUGIN: xh_plugin = xh_plugin {
    struct_size: size_of::<xh_plugin>() as u32,
    abi: ABI_VERSION,
    kind: XH_PLUGIN_TEXT as xh_plugin_kind,
    score: 2, // before sentencepiece where a model has both files, as the reference reads them
    name: c"huggingface".as_ptr(),
    version: RELEASE.as_ptr() as *const c_char,
    license: c"Apache-2.0".as_ptr(),
    unavailable: std::ptr::null(),
    table: &TABLE as *const xh_text_table as *const c_void,
    shutdown: None,
};

// SAFETY: the tables are constants; what their pointers lead to is constant and lives as long as the process.
unsafe impl Sync for xh_text_table {}
unsafe impl Sync for xh_plugin {}

/// The entry of the plugin; see xhybrid_plugin.h.
///
/// # Safety
/// `host` lives as long as the process.
#[no_mangle]
pub unsafe extern "C" fn xh_plugin_v1(host: *const xh_host, index: i32) -> *const xh_plugin {
    error::set_host(host);
    if index == 0 {
        &PLUGIN
    } else {
        std::ptr::null()
    }
}
