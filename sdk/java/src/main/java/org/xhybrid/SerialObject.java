package org.xhybrid;

import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongConsumer;

/** A native object that belongs to one thread at a time: calls follow one another. */
abstract class SerialObject extends NativeObject {
  private final ReentrantLock lock = new ReentrantLock();

  SerialObject(String name, long address, LongConsumer free, Handle needed) {
    super(name, address, free, needed);
  }

  /** Waits for the call of another thread. The address is valid until {@link #end}. */
  long begin() {
    lock.lock();
    try {
      return handle.enter();
    } catch (IllegalStateException closed) {
      lock.unlock();
      throw closed;
    }
  }

  void end() {
    handle.leave();
    lock.unlock();
  }

  @Override
  void call(Call call) {
    final long address = begin();
    try {
      call.with(address);
    } finally {
      end();
    }
  }

  @Override
  long ask(Ask ask) {
    final long address = begin();
    try {
      return ask.with(address);
    } finally {
      end();
    }
  }

  /** As {@link #call} for those who have entered the handle already. */
  void inTurn(Runnable work) {
    lock.lock();
    try {
      work.run();
    } finally {
      lock.unlock();
    }
  }

  /** Between two pieces of work: whether the thread was asked to stop. Its status stays set. */
  static void stopWhenInterrupted(String what) {
    if (Thread.currentThread().isInterrupted()) {
      throw XhybridException.refused(XhybridException.Code.CANCELLED, what);
    }
  }
}
