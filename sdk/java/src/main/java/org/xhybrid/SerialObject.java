package org.xhybrid;

import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongConsumer;

/** A native object that belongs to one thread at a time: calls follow one another. */
abstract class SerialObject extends NativeObject {
  private final ReentrantLock lock = new ReentrantLock();

  SerialObject(String name, long address, LongConsumer free, Handle needed) {
    super(name, address, free, needed);
  }

  @Override
  void call(Call call) {
    inTurn(() -> super.call(call));
  }

  /** Waits for the call of another thread. */
  void inTurn(Runnable work) {
    lock.lock();
    try {
      work.run();
    } finally {
      lock.unlock();
    }
  }

  @Override
  long ask(Ask ask) {
    lock.lock();
    try {
      return super.ask(ask);
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
