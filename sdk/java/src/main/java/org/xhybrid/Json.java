package org.xhybrid;

import java.util.Map;

/** Writes what the library reads as JSON: maps, lists, arrays of objects, texts, numbers, truth values and null. */
final class Json {
  private Json() {}

  static String write(Object value) {
    final StringBuilder out = new StringBuilder();
    append(out, value);
    return out.toString();
  }

  private static void append(StringBuilder out, Object value) {
    if (value instanceof Map<?, ?> map) {
      appendMap(out, map);
    } else if (value instanceof Iterable<?> list && !(value instanceof java.nio.file.Path)) { // a path is a list of names
      appendList(out, list);
    } else if (value instanceof Message message) {
      appendMap(out, Map.of("role", message.role(), "content", message.content()));
    } else if (value == null || value instanceof Boolean) {
      out.append(value);
    } else if (value instanceof Number number) {
      appendNumber(out, number);
    } else if (value instanceof CharSequence || value instanceof java.nio.file.Path || value instanceof java.io.File) {
      appendText(out, value.toString());
    } else {
      throw new IllegalArgumentException(
          value.getClass().getName() + " in a recipe; allowed: Map, Iterable, text, Path, Number, Boolean, null");
    }
  }

  private static void appendMap(StringBuilder out, Map<?, ?> map) {
    String before = "{";
    for (Map.Entry<?, ?> entry : map.entrySet()) {
      out.append(before);
      appendText(out, String.valueOf(entry.getKey()));
      out.append(':');
      append(out, entry.getValue());
      before = ",";
    }
    out.append(map.isEmpty() ? "{}" : "}");
  }

  private static void appendList(StringBuilder out, Iterable<?> list) {
    String before = "";
    out.append('[');
    for (Object item : list) {
      out.append(before);
      append(out, item);
      before = ",";
    }
    out.append(']');
  }

  private static void appendNumber(StringBuilder out, Number number) {
    if (!Double.isFinite(number.doubleValue())) {
      throw new IllegalArgumentException("the number " + number + " in a recipe; allowed: finite numbers");
    }
    out.append(number);
  }

  private static void appendText(StringBuilder out, String text) {
    out.append('"');
    for (int i = 0; i < text.length(); ++i) {
      final char c = text.charAt(i);
      if (c == '"' || c == '\\') out.append('\\');
      if (c < 0x20) {
        out.append(String.format("\\u%04x", (int) c));
      } else {
        out.append(c);
      }
    }
    out.append('"');
  }
}
