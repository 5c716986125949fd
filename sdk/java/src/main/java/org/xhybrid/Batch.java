package org.xhybrid;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * Sequences that are written together, so that the weights are read once for all of them. Each slot is empty or holds
 * one. One call at a time: a second thread waits.
 */
public final class Batch extends SerialObject {
  private final int slots;

  Batch(long address, int slots, Handle needed) {
    super("batch", address, Native::xh_batch_free, needed);
    this.slots = slots;
  }

  /**
   * How many sequences it has room for.
   *
   * @return slots
   */
  public int slots() {
    return slots;
  }

  /**
   * Copies state, sampler and text of a session; the session stays as it is. What the slot held is dropped.
   *
   * @param slot 0 to slots - 1
   * @param session of the same model, which has read its prompt
   * @throws XhybridException with {@code INVALID_STATE} when the session has read no token
   */
  public void put(int slot, Session session) {
    call(batch -> session.call(address -> Native.xh_batch_put(batch, slot, address)));
  }

  /**
   * Empties a slot.
   *
   * @param slot 0 to slots - 1
   */
  public void drop(int slot) {
    call(address -> Native.xh_batch_drop(address, slot));
  }

  /**
   * Chooses and feeds one token of every sequence. A finished sequence leaves its slot. Where one cannot go on, the
   * exception names its slot and nothing changes: drop it and call again.
   *
   * @return a token for each slot, null where it is empty
   * @throws XhybridException with {@code CANCELLED} when the thread is interrupted: nothing was chosen
   */
  public List<Token> next() {
    stopWhenInterrupted("generation was interrupted between two tokens; the batch can go on");
    final int[] ids = new int[slots];
    final byte[][] pieces = new byte[slots][];
    final int[] finished = new int[slots];
    call(address -> Native.xh_batch_next(address, ids, pieces, finished));
    final List<Token> tokens = new ArrayList<>(slots);
    for (int i = 0; i < slots; ++i) {
      tokens.add(ids[i] < 0 ? null : new Token(ids[i], Text.of(pieces[i]), finished[i] != 0));
    }
    return Collections.unmodifiableList(tokens);
  }

  /**
   * The memory of all states.
   *
   * @return bytes
   */
  public long stateBytes() {
    return ask(Native::xh_batch_state_bytes);
  }
}
