package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.MODEL;
import static org.xhybrid.test.Fixtures.RUNTIME;
import static org.xhybrid.test.Fixtures.TINY_MODEL;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.xhybrid.Batch;
import org.xhybrid.Checkpoint;
import org.xhybrid.Model;
import org.xhybrid.Options;
import org.xhybrid.Session;

class ThreadsTest {
  private static final int THREADS = 8;

  /** Begins all at once; a failure of one is the test's. */
  private static <T> List<T> together(List<Callable<T>> tasks) throws Exception {
    final ExecutorService pool = Executors.newFixedThreadPool(tasks.size());
    final CyclicBarrier begin = new CyclicBarrier(tasks.size());
    try {
      final List<Future<T>> futures = new ArrayList<>();
      for (Callable<T> task : tasks) {
        futures.add(
            pool.submit(
                () -> {
                  begin.await();
                  return task.call();
                }));
      }
      final List<T> results = new ArrayList<>();
      for (Future<T> future : futures) results.add(future.get());
      return results;
    } finally {
      pool.shutdownNow();
    }
  }

  private static String write(int seed) {
    try (Session session = MODEL.session(Options.of("capacity", 64))) {
      session.feed(MODEL.encode("Once upon a time", true));
      session.sampler(Options.of("temperature", 1.0).set("seed", seed).set("max_tokens", 24));
      return session.generate();
    }
  }

  @Test
  void eightThreadsWithASessionEachOnOneModel() throws Exception {
    final List<String> alone = new ArrayList<>();
    final List<Callable<String>> tasks = new ArrayList<>();
    for (int i = 0; i < THREADS; ++i) {
      final int seed = i;
      alone.add(write(seed));
      tasks.add(() -> write(seed));
    }
    assertTrue(alone.stream().distinct().count() > 4, alone.toString());
    assertEquals(alone, together(tasks));
  }

  @Test
  void threadsThatShareASessionTakeTurns() throws Exception {
    try (Session session = TINY_MODEL.session(Options.of("capacity", 200))) {
      final List<Callable<Integer>> tasks = new ArrayList<>();
      for (int i = 0; i < THREADS; ++i) {
        tasks.add(
            () -> {
              for (int n = 0; n < 20; ++n) session.feed(35);
              return 20;
            });
      }
      together(tasks);
      assertEquals(20 * THREADS, session.position());
    }
  }

  /** Every thread calls until the object is closed by one of them; a call gives a result or says "closed". */
  private static void closeInTheMiddle(AutoCloseable object, Runnable call) throws Exception {
    final AtomicInteger calls = new AtomicInteger();
    final List<Callable<String>> tasks = new ArrayList<>();
    for (int i = 0; i < THREADS - 1; ++i) {
      tasks.add(
          () -> {
            try {
              for (; ; calls.incrementAndGet()) call.run();
            } catch (IllegalStateException closed) {
              return closed.getMessage();
            }
          });
    }
    tasks.add(
        () -> {
          while (calls.get() < 5) Thread.onSpinWait();
          object.close();
          return "it is closed";
        });
    for (String end : together(tasks)) assertTrue(end.endsWith("is closed"), end);
  }

  @Test
  void closingWhileOthersCallIsSafe() throws Exception {
    for (int round = 0; round < 20; ++round) {
      final Model model = RUNTIME.load(Fixtures.TINY);
      closeInTheMiddle(model, () -> model.score(1, 35, 36));
      final Session session = TINY_MODEL.session();
      session.feed(1);
      closeInTheMiddle(session, session::snapshot);
      final Checkpoint checkpoint = RUNTIME.checkpoint(Fixtures.TINY);
      closeInTheMiddle(checkpoint, () -> checkpoint.tensor("model.norm.weight").floats().get(31));
      final Session prompt = TINY_MODEL.session();
      prompt.feed(1);
      final Batch batch = TINY_MODEL.batch(2, null);
      closeInTheMiddle(
          batch,
          () -> {
            batch.put(0, prompt);
            batch.next();
          });
      closeInTheMiddle(prompt, prompt::logits);
    }
  }
}
