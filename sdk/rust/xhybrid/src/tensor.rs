//! Views of tensors in a checkpoint.
use std::fmt;
use std::marker::PhantomData;
use std::slice::ChunksExact;

use half::{bf16, f16};
use xhybrid_sys as sys;

use crate::error::{Code, Error, Result};
use crate::ffi::{borrow_slice, to_usize};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// `f32`
    F32,
    /// [`half::f16`]
    F16,
    /// [`half::bf16`]
    Bf16,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `u8`
    U8,
}

impl DType {
    fn from_raw(dtype: sys::xh_dtype) -> Option<Self> {
        Some(match u32::try_from(dtype).ok()? {
            sys::XH_F32 => DType::F32,
            sys::XH_F16 => DType::F16,
            sys::XH_BF16 => DType::Bf16,
            sys::XH_I32 => DType::I32,
            sys::XH_I64 => DType::I64,
            sys::XH_U8 => DType::U8,
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::F16 | DType::Bf16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The Rust types that elements have. Every pattern of bits is a value of each.
pub trait Element: Copy + sealed::Sealed + 'static {
    /// The same for the library.
    const DTYPE: DType;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}
element!(f32 => F32, f16 => F16, bf16 => Bf16, i32 => I32, i64 => I64, u8 => U8);

/// A read-only tensor of a [`Checkpoint`](crate::Checkpoint), row-major, borrowed from it: no copy is made.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// # let checkpoint = xhybrid::Checkpoint::open(&runtime, "student.xhy")?;
/// use xhybrid::{half::bf16, DType};
///
/// let embedding = checkpoint.tensor("model.embed_tokens.weight")?;
/// assert_eq!(embedding.dtype(), DType::Bf16);
/// for row in embedding.rows::<bf16>()?.take(2) {
///     println!("{:?}", &row[..4]);
/// }
/// let sum: f64 = embedding.iter_f64()?.sum();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TensorView<'a> {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a [u8],
    _checkpoint: PhantomData<&'a crate::Checkpoint>,
}

impl<'a> TensorView<'a> {
    /// # Safety
    /// What `raw` points to is not written to and lives as long as `'a`.
    pub(crate) unsafe fn new(name: &str, raw: &sys::xh_tensor) -> Result<Self> {
        let Some(dtype) = DType::from_raw(raw.dtype) else {
            return Err(Error::new(Code::Incompatible, format!("tensor {name} has dtype {}, unknown here", raw.dtype)));
        };
        let rank = to_usize(raw.rank.into()).min(raw.shape.len());
        let shape: Vec<usize> = raw.shape[..rank].iter().map(|&size| to_usize(size)).collect();
        let view = TensorView {
            name: name.to_owned(),
            dtype,
            // The library has checked that the product fits the file.
            bytes: borrow_slice(raw.data.cast(), shape.iter().product::<usize>() * dtype.size()),
            shape,
            _checkpoint: PhantomData,
        };
        view.check_layout(raw)?;
        Ok(view)
    }

    /// Its name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements in each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements as they are stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] when `T` is not the tensor's dtype.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        if T::DTYPE != self.dtype {
            return Err(Error::invalid_argument(format!(
                "tensor {} is read as {}; allowed: {}",
                self.name,
                T::DTYPE,
                self.dtype
            )));
        }
        let pointer: *const T = self.bytes.as_ptr().cast();
        if !self.is_empty() && !pointer.is_aligned() {
            return Err(Error::new(Code::Internal, format!("tensor {} is not aligned", self.name)));
        }
        // SAFETY: aligned, of the right size, alive for 'a, and every pattern of bits is an Element.
        Ok(unsafe { borrow_slice(pointer, self.len()) })
    }

    /// The rows of a matrix, `[rows, columns]`.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] when `T` is not the tensor's dtype or the tensor is not a matrix.
    pub fn rows<T: Element>(&self) -> Result<ChunksExact<'a, T>> {
        match self.shape[..] {
            [_, columns] if columns > 0 => Ok(self.as_slice()?.chunks_exact(columns)),
            _ => Err(Error::invalid_argument(format!(
                "tensor {} has shape {:?}; allowed for rows: [rows, columns]",
                self.name, self.shape
            ))),
        }
    }

    /// The elements of a tensor of floats, widened exactly, row-major.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] for tensors of integers.
    pub fn iter_f64(&self) -> Result<Box<dyn Iterator<Item = f64> + 'a>> {
        Ok(match self.dtype {
            DType::F32 => Box::new(self.as_slice::<f32>()?.iter().map(|&value| value.into())),
            DType::F16 => Box::new(self.as_slice::<f16>()?.iter().map(|&value| value.into())),
            DType::Bf16 => Box::new(self.as_slice::<bf16>()?.iter().map(|&value| value.into())),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "tensor {} is {}; allowed: f32, f16, bf16",
                    self.name, self.dtype
                )))
            }
        })
    }

    /// Tensors in host memory without gaps are all that checkpoints hold today; a slice could not tell of others.
    fn check_layout(&self, raw: &sys::xh_tensor) -> Result<()> {
        let mut stride = 1;
        let contiguous = (0..self.shape.len()).rev().all(|axis| {
            let fits = self.shape[axis] <= 1 || raw.stride[axis] == stride;
            stride *= raw.shape[axis];
            fits
        });
        if raw.device == 0 && (contiguous || self.is_empty()) {
            return Ok(());
        }
        Err(Error::new(Code::Unsupported, format!("tensor {} is not row-major in host memory", self.name)))
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorView({} {} {:?})", self.name, self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data: &[f32], shape: &[i64], stride: &[i64], dtype: u32) -> sys::xh_tensor {
        let mut raw: sys::xh_tensor = unsafe { std::mem::zeroed() };
        raw.data = data.as_ptr().cast_mut().cast();
        raw.rank = shape.len() as i32;
        raw.shape[..shape.len()].copy_from_slice(shape);
        raw.stride[..stride.len()].copy_from_slice(stride);
        raw.dtype = dtype as i32;
        raw
    }

    fn view<'a>(data: &'a [f32], shape: &[i64], stride: &[i64], dtype: u32) -> Result<TensorView<'a>> {
        unsafe { TensorView::new("t", &tensor(data, shape, stride, dtype)) }
    }

    const DATA: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    #[test]
    fn rows_are_those_of_the_matrix() {
        let view = view(&DATA, &[2, 3], &[3, 1], sys::XH_F32).unwrap();
        assert_eq!(view.rows::<f32>().unwrap().collect::<Vec<_>>(), [&DATA[..3], &DATA[3..]]);
        assert_eq!(view.iter_f64().unwrap().sum::<f64>(), 21.0);
    }

    #[test]
    fn the_wrong_dtype_is_refused_in_words() {
        let error = view(&DATA, &[6], &[1], sys::XH_F32).unwrap().as_slice::<bf16>().unwrap_err();
        assert_eq!((error.code(), error.origin()), (Code::InvalidArgument, "rust"));
        assert_eq!(error.message(), "tensor t is read as bf16; allowed: f32");
    }

    #[test]
    fn a_vector_has_no_rows() {
        let error = view(&DATA, &[6], &[1], sys::XH_F32).unwrap().rows::<f32>().unwrap_err();
        assert_eq!(error.message(), "tensor t has shape [6]; allowed for rows: [rows, columns]");
    }

    #[test]
    fn integers_are_not_widened() {
        let view = view(&DATA, &[6], &[1], sys::XH_I32).unwrap();
        assert_eq!(view.iter_f64().err().unwrap().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_transposed_tensor_is_no_slice() {
        assert_eq!(view(&DATA, &[2, 3], &[1, 2], sys::XH_F32).unwrap_err().code(), Code::Unsupported);
    }

    #[test]
    fn a_dtype_of_the_future_is_refused() {
        assert_eq!(view(&DATA, &[6], &[1], 99).unwrap_err().code(), Code::Incompatible);
    }

    #[test]
    fn no_elements_are_an_empty_slice() {
        let mut raw = tensor(&[], &[0, 3], &[3, 1], sys::XH_F32);
        raw.data = std::ptr::null_mut();
        let view = unsafe { TensorView::new("t", &raw) }.unwrap();
        assert!(view.is_empty() && view.as_slice::<f32>().unwrap().is_empty());
    }
}
