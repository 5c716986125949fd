package org.xhybrid;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class HalvesTest {
  @Test
  void everyFloat16IsItsValue() {
    for (int bits = 0; bits < 0x10000; ++bits) {
      final int exponent = bits >> 10 & 31, fraction = bits & 1023;
      final double magnitude =
          exponent == 31
              ? fraction == 0 ? Double.POSITIVE_INFINITY : Double.NaN
              : exponent == 0 ? Math.scalb((double) fraction, -24) : Math.scalb(1024.0 + fraction, exponent - 25);
      assertEquals((float) (bits < 0x8000 ? magnitude : -magnitude), Halves.fromFloat16((short) bits), "bits " + bits);
    }
  }

  @Test
  void bfloat16IsTheUpperHalfOfAFloat() {
    assertEquals(-1.5f, Halves.fromBfloat16((short) 0xbfc0));
    assertEquals(Float.NEGATIVE_INFINITY, Halves.fromBfloat16((short) 0xff80));
    assertTrue(Float.isNaN(Halves.fromBfloat16((short) 0x7fc0)));
  }
}
