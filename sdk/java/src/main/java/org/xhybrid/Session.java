package org.xhybrid;

import java.util.Spliterator;
import java.util.Spliterators.AbstractSpliterator;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * One sequence being read and written. One call at a time: a second thread waits.
 *
 * <pre>{@code
 * try (Session session = model.session(Options.of("capacity", 512))) {
 *   session.feed(model.encode(prompt, true));
 *   session.sampler(Options.of("temperature", 0.7).set("max_tokens", 128));
 *   session.stream().forEach(System.out::print);
 * }
 * }</pre>
 */
public final class Session extends SerialObject {
  private final int[] token = new int[1]; // guarded by the lock, as are all three
  private final byte[][] piece = new byte[1][];
  private final int[] finished = new int[1];

  Session(long address, Handle needed) {
    super("session", address, Native::xh_session_free, needed);
  }

  /**
   * Reads tokens: the position advances by as many.
   *
   * @param ids of the vocabulary; one that is not refuses them all
   * @throws XhybridException with {@code INVALID_ARGUMENT} for such an id, or more tokens than the capacity has room for
   */
  public void feed(int... ids) {
    call(address -> Native.xh_session_feed(address, ids));
  }

  /**
   * The logits after the last token.
   *
   * @return a copy, [vocab]
   * @throws XhybridException with {@code INVALID_STATE} before any token
   */
  public float[] logits() {
    final float[][] out = new float[1][];
    call(address -> Native.xh_session_logits(address, out));
    return out[0];
  }

  /**
   * How many tokens were read and written.
   *
   * @return tokens
   */
  public long position() {
    return ask(Native::xh_session_position);
  }

  /**
   * The memory of the state.
   *
   * @return bytes
   */
  public long stateBytes() {
    return ask(Native::xh_session_state_bytes);
  }

  /**
   * How to choose tokens from now on; counts anew.
   *
   * @param options "temperature": real, 0 = greedy (default); "top_k": int, 0 = all; "top_p": real, 1; "seed": int, 0;
   *     "max_tokens": int, 256; "stop": text that ends generation, may repeat; null for the defaults
   */
  public void sampler(Options options) {
    call(address -> Native.xh_session_sampler(address, Options.packed(options)));
  }

  /**
   * Chooses and feeds one token.
   *
   * @return the token
   * @throws XhybridException with {@code INVALID_STATE} after the last one; with {@code CANCELLED} when the thread is
   *     interrupted: nothing was chosen, and the session can go on
   */
  public Token next() {
    stopWhenInterrupted("generation was interrupted between two tokens; the session can go on");
    final long address = begin(); // plainly, as this is done for every token
    try {
      Native.xh_session_next(address, token, piece, finished);
      return new Token(token[0], piece[0].length == 0 ? "" : Text.of(piece[0]), finished[0] != 0);
    } finally {
      end();
    }
  }

  /**
   * Writes to the end.
   *
   * @return the text
   */
  public String generate() {
    final StringBuilder text = new StringBuilder();
    for (boolean more = true; more; ) {
      final Token next = next();
      text.append(next.piece());
      more = !next.finished();
    }
    return text.toString();
  }

  /**
   * The tokens of the generation as they come, up to the last. Sequential and lazy: a token is chosen when it is asked
   * for. Closing the stream leaves the session as it is.
   *
   * @return the tokens
   */
  public Stream<Token> tokens() {
    return StreamSupport.stream(new Tokens(), false);
  }

  /**
   * The text of the generation as it comes: whole characters, no piece is empty.
   *
   * @return the pieces, as {@link #tokens} has them
   */
  public Stream<String> stream() {
    return tokens().map(Token::piece).filter(piece -> !piece.isEmpty());
  }

  /**
   * The state as bytes, to keep or to store.
   *
   * @return what {@link #restore} takes
   */
  public byte[] snapshot() {
    return bytes(Native::xh_session_snapshot);
  }

  /**
   * Goes on from a snapshot. The sampler stays. On failure the state is what it was.
   *
   * @param snapshot of a session of a model of the same shape
   * @throws XhybridException with {@code CORRUPT} for bytes that are no snapshot; with {@code INCOMPATIBLE} for one of
   *     another shape; with {@code INVALID_ARGUMENT} when its position exceeds the capacity
   */
  public void restore(byte[] snapshot) {
    call(address -> Native.xh_session_restore(address, snapshot));
  }

  /**
   * An independent session that continues from the same state, sampler and text included.
   *
   * @return the session, to be closed by the caller
   */
  public Session fork() {
    return new Session(made(Native::xh_session_fork), handle.needed());
  }

  /** Forgets every token. */
  public void reset() {
    call(Native::xh_session_reset);
  }

  private final class Tokens extends AbstractSpliterator<Token> {
    private boolean over;

    Tokens() {
      super(Long.MAX_VALUE, Spliterator.ORDERED | Spliterator.NONNULL);
    }

    @Override
    public boolean tryAdvance(Consumer<? super Token> action) {
      if (over) return false;
      final Token next = next();
      over = next.finished();
      action.accept(next);
      return true;
    }
  }
}
