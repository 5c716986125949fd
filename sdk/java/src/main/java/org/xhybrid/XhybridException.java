package org.xhybrid;

/** What the library refused: one line that says what, where, the value and what is allowed. */
public final class XhybridException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** The kind of a failure, in the order of {@code xh_code}. */
  public enum Code {
    /** A code that this version of the SDK does not know. */
    UNKNOWN,
    /** The caller passed something that is not allowed. */
    INVALID_ARGUMENT,
    /** The object cannot do this now. */
    INVALID_STATE,
    /** A file, tensor, plugin or name does not exist. */
    NOT_FOUND,
    /** Valid, but this build, plugin or device cannot do it. */
    UNSUPPORTED,
    /** The host or the device has no memory left. */
    OUT_OF_MEMORY,
    /** The operating system refused a read or a write; the message has its reason. */
    IO,
    /** Stored bytes are damaged or malformed. */
    CORRUPT,
    /** Well formed, but of another version, architecture or vocabulary. */
    INCOMPATIBLE,
    /** The device failed for good. */
    DEVICE_LOST,
    /** Stopped by {@link Job#cancel()} or by an interrupt of the thread. */
    CANCELLED,
    /** A defect of the library: please report. */
    INTERNAL;

    private static final Code[] ALL = values();

    static Code of(int number) {
      return number > 0 && number < ALL.length ? ALL[number] : UNKNOWN;
    }
  }

  /** @serial the kind of the failure */
  private final Code code;

  /** @serial who raised it */
  private final String origin;

  XhybridException(Code code, String message, String origin) {
    super(message);
    this.code = code;
    this.origin = origin;
  }

  /** Called by native code. */
  static XhybridException of(int code, byte[] message, byte[] origin) {
    return new XhybridException(Code.of(code), Text.of(message), Text.of(origin));
  }

  /** Refused by the SDK itself, before the library saw it. */
  static XhybridException refused(Code code, String message) {
    return new XhybridException(code, message, "java");
  }

  /**
   * The kind of the failure.
   *
   * @return never null
   */
  public Code code() {
    return code;
  }

  /**
   * Who raised it: "core", "cpu", "merge.ties"; "java" when the SDK did.
   *
   * @return never null
   */
  public String origin() {
    return origin;
  }
}
