//! Typed options of the calls that open something.
use std::ffi::CString;

use xhybrid_sys as sys;

use crate::error::Result;
use crate::ffi::{c_len, c_string};

/// The value of an option; made from `&str`, `String`, integers, floats and `bool`.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A real number.
    Real(f64),
    /// Yes or no.
    Bool(bool),
}

macro_rules! option_value_from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for OptionValue {
            fn from(value: $type) -> Self {
                OptionValue::$variant(value.into())
            }
        })*
    };
}
option_value_from!(&str => Text, String => Text, i32 => Int, u32 => Int, i64 => Int, f32 => Real, f64 => Real, bool => Bool);

impl From<usize> for OptionValue {
    /// Numbers that the library has no room for become the largest it has, which it then refuses.
    fn from(value: usize) -> Self {
        OptionValue::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// Keys with values, in the order given. The builders wrap one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options(Vec<(String, OptionValue)>);

impl Options {
    /// Sets `key`, in place of an earlier value.
    pub(crate) fn set(mut self, key: &str, value: impl Into<OptionValue>) -> Self {
        self.0.retain(|(other, _)| other != key);
        self.add(key, value)
    }

    /// Adds a value of a key that may repeat.
    pub(crate) fn add(mut self, key: &str, value: impl Into<OptionValue>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn views(&self) -> Result<OptionViews> {
        let mut views = OptionViews { strings: Vec::new(), options: Vec::new() };
        for (key, value) in &self.0 {
            views.push(key, value)?;
        }
        Ok(views)
    }
}

/// Options as the library takes them. The strings live on the heap, so that the pointers to them stay good.
pub(crate) struct OptionViews {
    strings: Vec<CString>,
    options: Vec<sys::xh_option>,
}

impl OptionViews {
    pub(crate) fn as_ptr(&self) -> *const sys::xh_option {
        self.options.as_ptr()
    }

    pub(crate) fn len(&self) -> i64 {
        c_len(&self.options)
    }

    fn push(&mut self, key: &str, value: &OptionValue) -> Result<()> {
        let mut option = sys::xh_option {
            key: self.keep(key, "option")?,
            text: std::ptr::null(),
            integer: 0,
            real: 0.0,
            kind: 0,
            reserved: 0,
        };
        option.kind = match value {
            OptionValue::Text(text) => {
                option.text = self.keep(text, key)?;
                sys::XH_OPTION_TEXT
            }
            OptionValue::Int(integer) => {
                option.integer = *integer;
                sys::XH_OPTION_INT
            }
            OptionValue::Real(real) => {
                option.real = *real;
                sys::XH_OPTION_REAL
            }
            OptionValue::Bool(flag) => {
                option.integer = i64::from(*flag);
                sys::XH_OPTION_BOOL
            }
        } as sys::xh_option_kind;
        self.options.push(option);
        Ok(())
    }

    fn keep(&mut self, text: &str, what: &str) -> Result<*const std::os::raw::c_char> {
        let string = c_string(text, what)?;
        let pointer = string.as_ptr();
        self.strings.push(string);
        Ok(pointer)
    }
}

/// A builder: a named set of options with `new`, `set` and one method for each known key.
macro_rules! options_builder {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[must_use]
        pub struct $name(pub(crate) $crate::options::Options);

        impl $name {
            /// The library's defaults.
            pub fn new() -> Self {
                Self::default()
            }

            /// Sets an option by its key, for those that only a newer library knows.
            pub fn set(self, key: &str, value: impl Into<$crate::OptionValue>) -> Self {
                Self(self.0.set(key, value))
            }

            $($(#[$key_doc])*
            pub fn $key(self, $key: $type) -> Self {
                Self(self.0.set(stringify!($key), $key))
            })*
        }
    };
}
pub(crate) use options_builder;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn options_keep_their_kinds() {
        let views = Options::default().set("a", "text").set("b", 3).set("c", 0.5).set("d", true).views().unwrap();
        let kinds: Vec<_> = views.options.iter().map(|option| option.kind as u32).collect();
        assert_eq!(kinds, [sys::XH_OPTION_TEXT, sys::XH_OPTION_INT, sys::XH_OPTION_REAL, sys::XH_OPTION_BOOL]);
        assert_eq!((views.options[1].integer, views.options[2].real, views.options[3].integer), (3, 0.5, 1));
    }

    #[test]
    fn set_replaces_and_add_repeats() {
        let options = Options::default().set("a", 1).set("a", 2).add("stop", "x").add("stop", "y");
        assert_eq!(options.views().unwrap().len(), 3);
    }

    #[test]
    fn a_nul_character_is_refused() {
        let error = Options::default().set("device", "c\0pu").views().err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("device"));
    }
}
