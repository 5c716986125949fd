package org.xhybrid;

import java.lang.ref.Cleaner;
import java.util.function.LongConsumer;

/** What every object over a native one is: closed once, by the caller or by the garbage collector. */
abstract class NativeObject implements AutoCloseable {
  final Handle handle;
  private final Cleaner.Cleanable cleanable;

  NativeObject(String name, long address, LongConsumer free, Handle needed) {
    handle = new Handle(name, address, free, needed);
    cleanable = handle.closeWith(this);
  }

  /**
   * Frees the native object, or leaves that to a call of another thread that is inside it now. Further calls do nothing;
   * every other method throws {@link IllegalStateException} from then on.
   */
  @Override
  public void close() {
    cleanable.clean();
  }

  /** A call that needs the address. */
  interface Call {
    void with(long address);
  }

  /** A call that gives a number. */
  interface Ask {
    long with(long address);
  }

  /** A call that leaves its result as the first element of an array. */
  interface Fill<T> {
    void with(long address, T out);
  }

  void call(Call call) {
    final long address = handle.enter();
    try {
      call.with(address);
    } finally {
      handle.leave();
    }
  }

  long ask(Ask ask) {
    final long address = handle.enter();
    try {
      return ask.with(address);
    } finally {
      handle.leave();
    }
  }

  byte[] bytes(Fill<byte[][]> fill) {
    final byte[][] out = new byte[1][];
    call(address -> fill.with(address, out));
    return out[0];
  }

  String text(Fill<byte[][]> fill) {
    return Text.of(bytes(fill));
  }

  /** The address of an object that the call makes. */
  long made(Fill<long[]> fill) {
    final long[] out = new long[1];
    call(address -> fill.with(address, out));
    return out[0];
  }
}
