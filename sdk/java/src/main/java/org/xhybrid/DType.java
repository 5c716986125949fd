package org.xhybrid;

/** What the elements of a tensor are, in the order of {@code xh_dtype}. */
public enum DType {
  /** IEEE single precision. */
  F32(4),
  /** IEEE half precision. */
  F16(2),
  /** The upper half of an IEEE single. */
  BF16(2),
  /** Signed 32-bit integer. */
  I32(4),
  /** Signed 64-bit integer. */
  I64(8),
  /** Unsigned byte. */
  U8(1);

  private static final DType[] ALL = values();
  private final int size;

  DType(int size) {
    this.size = size;
  }

  /**
   * The size of an element.
   *
   * @return bytes
   */
  public int size() {
    return size;
  }

  /**
   * Its name as checkpoints have it.
   *
   * @return "f32", "f16", "bf16", "i32", "i64" or "u8"
   */
  @Override
  public String toString() {
    return name().toLowerCase(java.util.Locale.ROOT);
  }

  static DType of(long number) {
    if (number < 1 || number > ALL.length) {
      throw XhybridException.refused(
          XhybridException.Code.UNSUPPORTED, "a tensor has dtype " + number + "; allowed: 1 to " + ALL.length);
    }
    return ALL[(int) number - 1];
  }
}
