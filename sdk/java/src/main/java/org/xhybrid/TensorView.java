package org.xhybrid;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import java.util.Arrays;
import java.util.Objects;

/**
 * A tensor of an open checkpoint: read-only, row-major, without a copy. May be used from any thread. Its methods need an
 * open checkpoint; buffers that they gave stay readable after it is closed.
 *
 * <p>A buffer of Java holds at most 2<sup>31</sup> - 1 elements: of a larger tensor take slices.
 */
public final class TensorView {
  private final Handle checkpoint;
  private final String name;
  private final long address;
  private final DType dtype;
  private final long[] shape;
  private final long count;

  /** {@code fields}: address, rank, dtype, shape. */
  TensorView(Handle checkpoint, String name, long[] fields) {
    this.checkpoint = checkpoint;
    this.name = name;
    address = fields[0];
    dtype = DType.of(fields[2]);
    shape = Arrays.copyOfRange(fields, 3, 3 + (int) fields[1]);
    count = Arrays.stream(shape).reduce(1, Math::multiplyExact);
  }

  /**
   * The tensor's name.
   *
   * @return as in the checkpoint
   */
  public String name() {
    return name;
  }

  /**
   * What its elements are.
   *
   * @return never null
   */
  public DType dtype() {
    return dtype;
  }

  /**
   * Its shape, slowest dimension first.
   *
   * @return a copy; empty for a scalar
   */
  public long[] shape() {
    return shape.clone();
  }

  /**
   * How many elements it has.
   *
   * @return the product of the shape
   */
  public long count() {
    return count;
  }

  /**
   * How many bytes it has.
   *
   * @return count times the size of an element
   */
  public long byteSize() {
    return count * dtype.size();
  }

  /**
   * All bytes, little-endian.
   *
   * @return a direct read-only buffer of {@link #byteSize} bytes
   * @throws XhybridException with {@code UNSUPPORTED} above 2 GiB: take {@link #bytes(long, int)}
   */
  public ByteBuffer bytes() {
    return bytes(0, whole(byteSize(), "bytes"));
  }

  /**
   * Some of the bytes, little-endian.
   *
   * @param offset of the first byte
   * @param size how many
   * @return a direct read-only buffer of {@code size} bytes
   * @throws IndexOutOfBoundsException when the tensor has no such bytes
   */
  public ByteBuffer bytes(long offset, int size) {
    Objects.checkFromIndexSize(offset, size, byteSize());
    checkpoint.enter();
    try {
      final ByteBuffer memory = Native.java_view(address + offset, size);
      checkpoint.keepFor(memory); // slices and views of it hold it
      return memory.asReadOnlyBuffer().order(ByteOrder.LITTLE_ENDIAN);
    } finally {
      checkpoint.leave();
    }
  }

  /**
   * All elements of a tensor of dtype F32.
   *
   * @return a direct read-only buffer of {@link #count} floats
   * @throws XhybridException with {@code INVALID_ARGUMENT} for another dtype: {@link #read} widens F16 and BF16; with
   *     {@code UNSUPPORTED} above 2 GiB: take {@link #floats(long, int)}
   */
  public FloatBuffer floats() {
    requireF32();
    whole(byteSize(), "bytes");
    return floats(0, (int) count);
  }

  /**
   * Some elements of a tensor of dtype F32.
   *
   * @param first index of the first element, row-major
   * @param size how many, at most 2<sup>29</sup> - 1
   * @return a direct read-only buffer of {@code size} floats
   * @throws XhybridException with {@code INVALID_ARGUMENT} for another dtype
   * @throws IndexOutOfBoundsException when the tensor has no such elements
   */
  public FloatBuffer floats(long first, int size) {
    requireF32();
    return elements(first, size).asFloatBuffer();
  }

  /**
   * Copies elements, F16 and BF16 widened exactly.
   *
   * @param first index of the first element, row-major
   * @param out receives as many as it has room for
   * @throws XhybridException with {@code INVALID_ARGUMENT} for an integer dtype
   * @throws IndexOutOfBoundsException when the tensor has no such elements
   */
  public void read(long first, float[] out) {
    switch (dtype) {
      case F32 -> floats(first, out.length).get(out);
      case BF16 -> {
        final ShortBuffer bits = elements(first, out.length).asShortBuffer();
        for (int i = 0; i < out.length; ++i) out[i] = Halves.fromBfloat16(bits.get(i));
      }
      case F16 -> {
        final ShortBuffer bits = elements(first, out.length).asShortBuffer();
        for (int i = 0; i < out.length; ++i) out[i] = Halves.fromFloat16(bits.get(i));
      }
      default -> throw wrongDType("f32, f16 or bf16");
    }
  }

  /**
   * Checks that it is what the caller takes it for.
   *
   * @param dtype what its elements have to be
   * @param shape its shape; -1 for any size of that dimension
   * @return this
   * @throws XhybridException with {@code INVALID_ARGUMENT} that names what it is and what was asked for
   */
  public TensorView expect(DType dtype, long... shape) {
    boolean fits = dtype == this.dtype && shape.length == this.shape.length;
    for (int i = 0; fits && i < shape.length; ++i) fits = shape[i] == -1 || shape[i] == this.shape[i];
    if (fits) return this;
    throw XhybridException.refused(
        XhybridException.Code.INVALID_ARGUMENT,
        "tensor \"" + name + "\" is " + this.dtype + " " + Arrays.toString(this.shape) + "; allowed: " + dtype + " "
            + Arrays.toString(shape));
  }

  private ByteBuffer elements(long first, int size) {
    Objects.checkFromIndexSize(first, size, count);
    return bytes(first * dtype.size(), whole((long) size * dtype.size(), "bytes of a slice"));
  }

  private int whole(long size, String unit) {
    if (size > Integer.MAX_VALUE) {
      throw XhybridException.refused(
          XhybridException.Code.UNSUPPORTED,
          "tensor \"" + name + "\": " + size + " " + unit + "; a buffer holds " + Integer.MAX_VALUE + ": take slices");
    }
    return (int) size;
  }

  private void requireF32() {
    if (dtype != DType.F32) throw wrongDType("f32");
  }

  private XhybridException wrongDType(String allowed) {
    return XhybridException.refused(
        XhybridException.Code.INVALID_ARGUMENT, "tensor \"" + name + "\" has dtype " + dtype + "; allowed: " + allowed);
  }

  @Override
  public String toString() {
    return name + " " + dtype + " " + Arrays.toString(shape);
  }
}
