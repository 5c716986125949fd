package org.xhybrid;

import java.lang.ref.Cleaner;
import java.util.function.LongConsumer;

/**
 * A native object and the number of those who need it now. It is freed once, when it is closed and the last of them has
 * left: so closing in the middle of another thread's call is safe. It knows nothing of the object that owns it and can
 * therefore be what a {@link Cleaner} holds.
 */
final class Handle implements Runnable {
  private static final Cleaner CLEANER = Cleaner.create();

  private final String name;
  private final long address;
  private final LongConsumer free;
  private final Handle needed; // stays until this one is freed; may be null
  private int users;
  private boolean closed;

  /** Takes over the object at {@code address}; {@code needed}, which the caller holds at this time, is freed later. */
  Handle(String name, long address, LongConsumer free, Handle needed) {
    this.name = name;
    this.address = address;
    this.free = free;
    this.needed = needed;
    if (needed != null) needed.share();
  }

  /** Closes this when {@code owner} is found to be garbage. */
  Cleaner.Cleanable closeWith(Object owner) {
    return CLEANER.register(owner, this);
  }

  /** Keeps the object until {@code user} is garbage, closed or not. */
  void keepFor(Object user) {
    share();
    CLEANER.register(user, this::leave);
  }

  /** The object's address, which is valid until {@link #leave}. */
  synchronized long enter() {
    if (closed) throw new IllegalStateException("the " + name + " is closed");
    ++users;
    return address;
  }

  /** One more user while there is another, which a closed object may still have. */
  private synchronized void share() {
    if (closed && users == 0) throw new IllegalStateException("the " + name + " is closed");
    ++users;
  }

  void leave() {
    final boolean last;
    synchronized (this) {
      last = --users == 0 && closed;
    }
    if (last) release();
  }

  /** Closes; further calls do nothing. */
  @Override
  public void run() {
    final boolean last;
    synchronized (this) {
      if (closed) return;
      closed = true;
      last = users == 0;
    }
    if (last) release();
  }

  /** What this one keeps alive, for others that have to keep it too; null for nothing. */
  Handle needed() {
    return needed;
  }

  private void release() {
    free.accept(address);
    if (needed != null) needed.leave();
  }
}
