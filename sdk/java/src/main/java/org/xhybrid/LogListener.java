package org.xhybrid;

/** What native code calls with a line of the log. */
final class LogListener {
  private final Log log;

  LogListener(Log log) {
    this.log = log;
  }

  void receive(int level, byte[] origin, byte[] text) {
    log.line(LogLevel.of(level), Text.of(origin), Text.of(text));
  }
}
