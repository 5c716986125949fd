// The plugin interface in Rust: written by bindings.sh (bindgen) from xhybrid_plugin.h.
#![allow(non_camel_case_types, dead_code)]

pub const XH_ABI_MAJOR: u32 = 1;
pub const XH_ABI_MINOR: u32 = 0;
#[repr(C)]
#[derive(Debug)]
pub struct xh_error {
    _unused: [u8; 0],
}
pub type xh_code = i32;
pub const XH_INVALID_ARGUMENT: _bindgen_ty_1 = 1;
pub const XH_INVALID_STATE: _bindgen_ty_1 = 2;
pub const XH_NOT_FOUND: _bindgen_ty_1 = 3;
pub const XH_UNSUPPORTED: _bindgen_ty_1 = 4;
pub const XH_OUT_OF_MEMORY: _bindgen_ty_1 = 5;
pub const XH_IO: _bindgen_ty_1 = 6;
pub const XH_CORRUPT: _bindgen_ty_1 = 7;
pub const XH_INCOMPATIBLE: _bindgen_ty_1 = 8;
pub const XH_DEVICE_LOST: _bindgen_ty_1 = 9;
pub const XH_CANCELLED: _bindgen_ty_1 = 10;
pub const XH_INTERNAL: _bindgen_ty_1 = 11;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
pub type xh_log_level = i32;
pub type xh_plugin_kind = i32;
pub const XH_PLUGIN_BACKEND: _bindgen_ty_4 = 1;
pub const XH_PLUGIN_STAGE: _bindgen_ty_4 = 2;
pub const XH_PLUGIN_MERGE: _bindgen_ty_4 = 3;
pub const XH_PLUGIN_TEXT: _bindgen_ty_4 = 4;
pub type _bindgen_ty_4 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_host {
    pub struct_size: u32,
    pub abi: u32,
    pub error_new: ::std::option::Option<
        unsafe extern "C" fn(
            code: xh_code,
            origin: *const ::std::os::raw::c_char,
            text: *const ::std::os::raw::c_char,
        ) -> *mut xh_error,
    >,
    pub log: ::std::option::Option<
        unsafe extern "C" fn(
            level: xh_log_level,
            origin: *const ::std::os::raw::c_char,
            text: *const ::std::os::raw::c_char,
        ),
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_host"][::std::mem::size_of::<xh_host>() - 24usize];
    ["Alignment of xh_host"][::std::mem::align_of::<xh_host>() - 8usize];
    ["Offset of field: xh_host::struct_size"][::std::mem::offset_of!(xh_host, struct_size) - 0usize];
    ["Offset of field: xh_host::abi"][::std::mem::offset_of!(xh_host, abi) - 4usize];
    ["Offset of field: xh_host::error_new"][::std::mem::offset_of!(xh_host, error_new) - 8usize];
    ["Offset of field: xh_host::log"][::std::mem::offset_of!(xh_host, log) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_plugin {
    pub struct_size: u32,
    pub abi: u32,
    pub kind: xh_plugin_kind,
    pub score: i32,
    pub name: *const ::std::os::raw::c_char,
    pub version: *const ::std::os::raw::c_char,
    pub license: *const ::std::os::raw::c_char,
    pub unavailable: *const ::std::os::raw::c_char,
    pub table: *const ::std::os::raw::c_void,
    pub shutdown: ::std::option::Option<unsafe extern "C" fn()>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_plugin"][::std::mem::size_of::<xh_plugin>() - 64usize];
    ["Alignment of xh_plugin"][::std::mem::align_of::<xh_plugin>() - 8usize];
    ["Offset of field: xh_plugin::struct_size"][::std::mem::offset_of!(xh_plugin, struct_size) - 0usize];
    ["Offset of field: xh_plugin::abi"][::std::mem::offset_of!(xh_plugin, abi) - 4usize];
    ["Offset of field: xh_plugin::kind"][::std::mem::offset_of!(xh_plugin, kind) - 8usize];
    ["Offset of field: xh_plugin::score"][::std::mem::offset_of!(xh_plugin, score) - 12usize];
    ["Offset of field: xh_plugin::name"][::std::mem::offset_of!(xh_plugin, name) - 16usize];
    ["Offset of field: xh_plugin::version"][::std::mem::offset_of!(xh_plugin, version) - 24usize];
    ["Offset of field: xh_plugin::license"][::std::mem::offset_of!(xh_plugin, license) - 32usize];
    ["Offset of field: xh_plugin::unavailable"][::std::mem::offset_of!(xh_plugin, unavailable) - 40usize];
    ["Offset of field: xh_plugin::table"][::std::mem::offset_of!(xh_plugin, table) - 48usize];
    ["Offset of field: xh_plugin::shutdown"][::std::mem::offset_of!(xh_plugin, shutdown) - 56usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct xh_text {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_text_stream {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_text_file {
    pub name: *const ::std::os::raw::c_char,
    pub bytes: *const ::std::os::raw::c_void,
    pub size: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_text_file"][::std::mem::size_of::<xh_text_file>() - 24usize];
    ["Alignment of xh_text_file"][::std::mem::align_of::<xh_text_file>() - 8usize];
    ["Offset of field: xh_text_file::name"][::std::mem::offset_of!(xh_text_file, name) - 0usize];
    ["Offset of field: xh_text_file::bytes"][::std::mem::offset_of!(xh_text_file, bytes) - 8usize];
    ["Offset of field: xh_text_file::size"][::std::mem::offset_of!(xh_text_file, size) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_message {
    pub role: *const ::std::os::raw::c_char,
    pub content: *const ::std::os::raw::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_message"][::std::mem::size_of::<xh_message>() - 16usize];
    ["Alignment of xh_message"][::std::mem::align_of::<xh_message>() - 8usize];
    ["Offset of field: xh_message::role"][::std::mem::offset_of!(xh_message, role) - 0usize];
    ["Offset of field: xh_message::content"][::std::mem::offset_of!(xh_message, content) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_text_table {
    pub struct_size: u32,
    pub reserved: u32,
    pub main_file: *const ::std::os::raw::c_char,
    pub open: ::std::option::Option<
        unsafe extern "C" fn(files: *const xh_text_file, count: i64, out: *mut *mut xh_text) -> *mut xh_error,
    >,
    pub close: ::std::option::Option<unsafe extern "C" fn(text: *mut xh_text)>,
    pub vocab_size: ::std::option::Option<unsafe extern "C" fn(text: *const xh_text) -> i64>,
    pub encode: ::std::option::Option<
        unsafe extern "C" fn(
            text: *const xh_text,
            bytes: *const ::std::os::raw::c_char,
            size: i64,
            add_special: i32,
            ids: *mut i32,
            capacity: i64,
            count: *mut i64,
        ) -> *mut xh_error,
    >,
    pub decode: ::std::option::Option<
        unsafe extern "C" fn(
            text: *const xh_text,
            ids: *const i32,
            count: i64,
            out: *mut ::std::os::raw::c_char,
            capacity: i64,
            size: *mut i64,
        ) -> *mut xh_error,
    >,
    pub special: ::std::option::Option<
        unsafe extern "C" fn(text: *const xh_text, token: *const ::std::os::raw::c_char, id: *mut i32) -> *mut xh_error,
    >,
    pub stream_open: ::std::option::Option<
        unsafe extern "C" fn(text: *const xh_text, out: *mut *mut xh_text_stream) -> *mut xh_error,
    >,
    pub stream_push: ::std::option::Option<
        unsafe extern "C" fn(
            stream: *mut xh_text_stream,
            id: i32,
            piece: *mut *const ::std::os::raw::c_char,
            size: *mut i64,
        ) -> *mut xh_error,
    >,
    pub stream_close: ::std::option::Option<unsafe extern "C" fn(stream: *mut xh_text_stream)>,
    pub render: ::std::option::Option<
        unsafe extern "C" fn(
            text: *const xh_text,
            messages: *const xh_message,
            count: i64,
            add_generation_prompt: i32,
            out: *mut ::std::os::raw::c_char,
            capacity: i64,
            size: *mut i64,
        ) -> *mut xh_error,
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_text_table"][::std::mem::size_of::<xh_text_table>() - 96usize];
    ["Alignment of xh_text_table"][::std::mem::align_of::<xh_text_table>() - 8usize];
    ["Offset of field: xh_text_table::struct_size"][::std::mem::offset_of!(xh_text_table, struct_size) - 0usize];
    ["Offset of field: xh_text_table::reserved"][::std::mem::offset_of!(xh_text_table, reserved) - 4usize];
    ["Offset of field: xh_text_table::main_file"][::std::mem::offset_of!(xh_text_table, main_file) - 8usize];
    ["Offset of field: xh_text_table::open"][::std::mem::offset_of!(xh_text_table, open) - 16usize];
    ["Offset of field: xh_text_table::close"][::std::mem::offset_of!(xh_text_table, close) - 24usize];
    ["Offset of field: xh_text_table::vocab_size"][::std::mem::offset_of!(xh_text_table, vocab_size) - 32usize];
    ["Offset of field: xh_text_table::encode"][::std::mem::offset_of!(xh_text_table, encode) - 40usize];
    ["Offset of field: xh_text_table::decode"][::std::mem::offset_of!(xh_text_table, decode) - 48usize];
    ["Offset of field: xh_text_table::special"][::std::mem::offset_of!(xh_text_table, special) - 56usize];
    ["Offset of field: xh_text_table::stream_open"][::std::mem::offset_of!(xh_text_table, stream_open) - 64usize];
    ["Offset of field: xh_text_table::stream_push"][::std::mem::offset_of!(xh_text_table, stream_push) - 72usize];
    ["Offset of field: xh_text_table::stream_close"][::std::mem::offset_of!(xh_text_table, stream_close) - 80usize];
    ["Offset of field: xh_text_table::render"][::std::mem::offset_of!(xh_text_table, render) - 88usize];
};
