package org.xhybrid;

import java.nio.charset.StandardCharsets;

/** Text as the C interface has it: UTF-8, which JNI's own strings are not. */
final class Text {
  private Text() {}

  static byte[] utf8(String text) {
    return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
  }

  /** For a C string, which ends at the first NUL: one inside would cut it short without a word. */
  static byte[] ended(String text) {
    if (text != null && text.indexOf('\0') >= 0) {
      throw new IllegalArgumentException("a NUL character at index " + text.indexOf('\0') + "; allowed: none");
    }
    return utf8(text);
  }

  static String of(byte[] utf8) {
    return utf8 == null ? null : new String(utf8, StandardCharsets.UTF_8);
  }
}
