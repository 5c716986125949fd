package org.xhybrid;

/** Hears the library's log. Called from any thread, native ones among them, and from several at once. */
@FunctionalInterface
public interface Log {
  /**
   * One line. What this throws is dropped. It must not wait for a thread that is inside a call of the library.
   *
   * @param level how much it matters
   * @param origin who speaks: "core", "cpu"
   * @param text the line
   */
  void line(LogLevel level, String origin, String text);

  /**
   * Lines go to a logger of the platform, {@code System.getLogger("org.xhybrid")}.
   *
   * @return a log for {@link Runtime.Builder#log}
   */
  static Log toSystemLogger() {
    final System.Logger logger = System.getLogger("org.xhybrid");
    return (level, origin, text) -> {
      final System.Logger.Level mapped =
          switch (level) {
            case DEBUG -> System.Logger.Level.DEBUG;
            case INFO -> System.Logger.Level.INFO;
            case WARNING -> System.Logger.Level.WARNING;
            case ERROR -> System.Logger.Level.ERROR;
          };
      logger.log(mapped, origin + ": " + text);
    };
  }
}
