package org.xhybrid;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * Typed keys and values, checked by the library: an unknown key, a wrong kind and a value out of range are an
 * {@link XhybridException} that names what is allowed. Belongs to one thread at a time.
 *
 * <pre>{@code Options.of("temperature", 0.7).set("top_k", 40).set("stop", "\n").set("stop", "User:")}</pre>
 */
public final class Options {
  private final List<byte[]> keys = new ArrayList<>();
  private final List<Object> values = new ArrayList<>();

  /** No options: every default. */
  public Options() {}

  /**
   * One option; more with {@link #set(String, String)} and its like.
   *
   * @param key its name
   * @param value its value
   * @return new options
   */
  public static Options of(String key, String value) {
    return new Options().set(key, value);
  }

  /**
   * One option.
   *
   * @param key its name
   * @param value its value
   * @return new options
   */
  public static Options of(String key, long value) {
    return new Options().set(key, value);
  }

  /**
   * One option.
   *
   * @param key its name
   * @param value its value
   * @return new options
   */
  public static Options of(String key, double value) {
    return new Options().set(key, value);
  }

  /**
   * One option.
   *
   * @param key its name
   * @param value its value
   * @return new options
   */
  public static Options of(String key, boolean value) {
    return new Options().set(key, value);
  }

  /**
   * Adds a text. Where the library says that a key may repeat, as "stop" may, each one counts.
   *
   * @param key its name
   * @param value its value; holds no NUL
   * @return this
   */
  public Options set(String key, String value) {
    return add(key, Text.ended(Objects.requireNonNull(value, "value")));
  }

  /**
   * Adds an integer.
   *
   * @param key its name
   * @param value its value
   * @return this
   */
  public Options set(String key, long value) {
    return add(key, value);
  }

  /**
   * Adds a real number.
   *
   * @param key its name
   * @param value its value
   * @return this
   */
  public Options set(String key, double value) {
    return add(key, value);
  }

  /**
   * Adds a truth value.
   *
   * @param key its name
   * @param value its value
   * @return this
   */
  public Options set(String key, boolean value) {
    return add(key, value);
  }

  private Options add(String key, Object value) {
    keys.add(Text.ended(Objects.requireNonNull(key, "key")));
    values.add(value);
    return this;
  }

  Options copy() {
    final Options copy = new Options();
    copy.keys.addAll(keys);
    copy.values.addAll(values);
    return copy;
  }

  /** Keys, texts, integers, reals and kinds, as native code reads them; null stands for none. */
  static Object[] packed(Options options) {
    if (options == null || options.keys.isEmpty()) return null;
    final int count = options.keys.size();
    final byte[][] texts = new byte[count][];
    final long[] integers = new long[count];
    final double[] reals = new double[count];
    final int[] kinds = new int[count];
    for (int i = 0; i < count; ++i) {
      final Object value = options.values.get(i);
      if (value instanceof byte[] text) {
        texts[i] = text;
        kinds[i] = NativeConstants.XH_OPTION_TEXT;
      } else if (value instanceof Long integer) {
        integers[i] = integer;
        kinds[i] = NativeConstants.XH_OPTION_INT;
      } else if (value instanceof Double real) {
        reals[i] = real;
        kinds[i] = NativeConstants.XH_OPTION_REAL;
      } else {
        integers[i] = (Boolean) value ? 1 : 0;
        kinds[i] = NativeConstants.XH_OPTION_BOOL;
      }
    }
    return new Object[] {options.keys.toArray(new byte[0][]), texts, integers, reals, kinds};
  }
}
