package org.xhybrid;

/** How much a line of the log matters. */
public enum LogLevel {
  /** For those who look for a defect. */
  DEBUG,
  /** What happens. */
  INFO,
  /** What may be wrong. */
  WARNING,
  /** What went wrong. */
  ERROR;

  private static final LogLevel[] ALL = values();

  static LogLevel of(int number) {
    return ALL[Math.max(0, Math.min(number, ALL.length - 1))];
  }
}
