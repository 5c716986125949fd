package org.xhybrid;

/**
 * A plugin that was loaded.
 *
 * @param kind what it does
 * @param score how well it fits this host; 0: it cannot run here
 * @param name its name
 * @param version its version
 * @param license its licence
 * @param path its file
 * @param optionsSchema its options as JSON, "" when it has none
 */
public record PluginInfo(
    Kind kind, int score, String name, String version, String license, String path, String optionsSchema) {
  /** What a plugin does. */
  public enum Kind {
    /** Of a kind that this version of the SDK does not know. */
    UNKNOWN,
    /** Computes on a device. */
    BACKEND,
    /** A stage of distillation. */
    STAGE,
    /** A merge method. */
    MERGE,
    /** A tokenizer. */
    TEXT
  }

  static PluginInfo of(byte[][] fields) {
    final int kind = Integer.parseInt(Text.of(fields[0]));
    final Kind[] kinds = Kind.values();
    return new PluginInfo(
        kind > 0 && kind < kinds.length ? kinds[kind] : Kind.UNKNOWN,
        Integer.parseInt(Text.of(fields[1])),
        Text.of(fields[2]),
        Text.of(fields[3]),
        Text.of(fields[4]),
        Text.of(fields[5]),
        Text.of(fields[6]));
  }
}
