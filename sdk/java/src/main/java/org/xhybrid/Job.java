package org.xhybrid;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * Long work in pieces: each event is one piece done. One call at a time; {@link #cancel} may be called at any time.
 *
 * <pre>{@code
 * try (Job job = runtime.job("merge", Map.of("models", List.of("a.xhy", "b.xhy"), "output", "merged.xhy"))) {
 *   for (String event : job) System.out.println(event);
 *   System.out.println(job.result());
 * }
 * }</pre>
 *
 * <p>A thread that is interrupted cancels the job it runs: the piece in hand is finished and saved, and the exception, of
 * code {@code CANCELLED}, says how to resume.
 */
public final class Job extends SerialObject implements Iterable<String> {
  private final String kind;
  private final AtomicInteger running = new AtomicInteger(); // tasks of runAsync
  private volatile boolean finished;

  Job(String kind, long address, Handle needed) {
    super("job", address, Native::xh_job_free, needed);
    this.kind = kind;
  }

  /**
   * Does the next piece of work.
   *
   * @return a JSON object that says what was done
   * @throws NoSuchElementException after the last piece
   * @throws XhybridException with {@code CANCELLED} after {@link #cancel} or when the thread is interrupted; after any
   *     other error the job is over and what was saved stays
   */
  public String next() {
    final long address = handle.enter();
    try {
      return next(address);
    } finally {
      handle.leave();
    }
  }

  private String next(long address) {
    final byte[][] event = new byte[1][];
    final int[] last = new int[1];
    inTurn(
        () -> {
          if (finished) throw new NoSuchElementException("the job has finished");
          if (Thread.currentThread().isInterrupted()) Native.xh_job_cancel(address);
          Native.xh_job_next(address, event, last);
          finished = last[0] != 0;
        });
    return Text.of(event[0]);
  }

  /**
   * Whether the last piece is done.
   *
   * @return true once {@link #result} can be asked for
   */
  public boolean isFinished() {
    return finished;
  }

  /**
   * The events as the work is done: each step of the iterator does a piece.
   *
   * @return an iterator that does what {@link #next} does
   */
  @Override
  public Iterator<String> iterator() {
    return new Iterator<>() {
      @Override
      public boolean hasNext() {
        return !finished;
      }

      @Override
      public String next() {
        return Job.this.next();
      }
    };
  }

  /**
   * The events as the work is done. Lazy and sequential.
   *
   * @return a stream that does a piece for each event that is asked for
   */
  public Stream<String> events() {
    return StreamSupport.stream(
        Spliterators.spliteratorUnknownSize(iterator(), Spliterator.ORDERED | Spliterator.NONNULL), false);
  }

  /**
   * Runs to the end.
   *
   * @return the outcome, as {@link #result}
   */
  public String run() {
    return run(event -> {});
  }

  /**
   * Runs to the end. {@link #close} from elsewhere cancels it.
   *
   * @param onEvent hears every event, in the thread of the caller
   * @return the outcome, as {@link #result}
   */
  public String run(Consumer<String> onEvent) {
    return run(handle.enter(), onEvent);
  }

  /** Leaves the handle, which the caller has entered: a job that is closed is still cancelled in order. */
  private String run(long address, Consumer<String> onEvent) {
    try {
      while (!finished) onEvent.accept(next(address));
      final byte[][] result = new byte[1][];
      inTurn(() -> Native.xh_job_result(address, result));
      return Text.of(result[0]);
    } finally {
      handle.leave();
    }
  }

  /**
   * Runs to the end in a thread of its own.
   *
   * @return the outcome; see {@link #runAsync(Consumer, Executor)}
   */
  public CompletableFuture<String> runAsync() {
    return runAsync(event -> {}, this::startThread);
  }

  /**
   * Runs to the end elsewhere. {@code cancel} of the future cancels the job: the future is done at once, and the thread
   * that works finishes and saves the piece in hand; {@link #join} waits for that. Keep hold of the future itself:
   * cancelling one that depends on it cancels that one alone.
   *
   * @param onEvent hears every event, in the thread that does the work
   * @param executor runs one task for as long as the job takes
   * @return the outcome; fails with what {@link #run(Consumer)} throws
   */
  public CompletableFuture<String> runAsync(Consumer<String> onEvent, Executor executor) {
    final long address = handle.enter();
    final Running future = new Running();
    running.incrementAndGet();
    try {
      executor.execute(() -> future.finish(address, onEvent));
    } catch (RuntimeException | Error refused) {
      ended();
      handle.leave();
      throw refused;
    }
    return future;
  }

  /**
   * Waits until nothing of {@link #runAsync} works on this job any more. May be called on a closed one.
   *
   * @throws InterruptedException when the thread is interrupted first
   */
  public void join() throws InterruptedException {
    synchronized (running) {
      while (running.get() > 0) running.wait();
    }
  }

  private void ended() {
    synchronized (running) {
      running.decrementAndGet();
      running.notifyAll();
    }
  }

  private void startThread(Runnable work) {
    final Thread thread = new Thread(work, "xhybrid-" + kind);
    thread.setDaemon(true);
    thread.start();
  }

  /**
   * Asks the job to stop: the piece in hand is finished and saved, and the next call gives {@code CANCELLED} with how to
   * resume. From any thread; never waits.
   */
  public void cancel() {
    final long address = handle.enter();
    try {
      Native.xh_job_cancel(address);
    } finally {
      handle.leave();
    }
  }

  /**
   * The outcome.
   *
   * @return JSON
   * @throws XhybridException with {@code INVALID_STATE} before the last piece is done
   */
  public String result() {
    return text(Native::xh_job_result);
  }

  /** Cancels what runs, then frees the job: at once, or when the piece in hand is finished and saved. */
  @Override
  public void close() {
    try {
      cancel();
    } catch (IllegalStateException closed) {
      return;
    }
    super.close();
  }

  private final class Running extends CompletableFuture<String> {
    void finish(long address, Consumer<String> onEvent) {
      try {
        complete(run(address, onEvent));
      } catch (Throwable failure) {
        completeExceptionally(failure);
      } finally {
        ended();
      }
    }

    @Override
    public boolean cancel(boolean mayInterruptIfRunning) {
      if (isDone()) return isCancelled();
      try {
        Job.this.cancel();
      } catch (IllegalStateException closed) {
        // and therefore cancelled
      }
      return super.cancel(mayInterruptIfRunning);
    }
  }
}
