package org.xhybrid;

/** 16-bit floating point numbers to float. Every one of them is a float, so nothing is rounded. */
final class Halves {
  private Halves() {}

  static float fromBfloat16(short bits) {
    return Float.intBitsToFloat(bits << 16);
  }

  static float fromFloat16(short bits) {
    final int sign = (bits & 0x8000) << 16;
    final int exponent = (bits >> 10) & 0x1f;
    final int fraction = bits & 0x3ff;
    if (exponent == 0) { // zero, or a number below 2^-14: a multiple of 2^-24
      final float magnitude = fraction * 0x1p-24f;
      return sign == 0 ? magnitude : -magnitude;
    }
    if (exponent == 0x1f) return Float.intBitsToFloat(sign | 0x7f800000 | fraction << 13);
    return Float.intBitsToFloat(sign | (exponent + 112) << 23 | fraction << 13); // bias 127 instead of 15
  }
}
