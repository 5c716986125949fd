package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.RUNTIME;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Queue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.RejectedExecutionException;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.Checkpoint;
import org.xhybrid.Job;
import org.xhybrid.XhybridException;
import org.xhybrid.XhybridException.Code;

class JobTest {
  @TempDir Path temporary;

  private Job merge() {
    return RUNTIME.job(
        "merge",
        Map.of("models", List.of(Fixtures.A, Fixtures.B), "method", "slerp", "options", Map.of("t", 0.5),
            "output", temporary.resolve("merged.xhy")));
  }

  /** Aligns a tiny student; no test lets all steps be done. */
  private Job distill(int steps) {
    return RUNTIME.job(
        "distill",
        Map.of("teacher", Fixtures.path("tiny"), "student", Map.of("window", 16), "context", 64, "batch", 2, "data",
            List.of(Fixtures.path("data/mix.train.jsonl.gz")), "output", temporary.resolve("run"), "stages",
            List.of(Map.of("stage", "align", "steps", steps))));
  }

  private boolean somethingIsSaved() throws Exception {
    try (Stream<Path> files = Files.list(temporary.resolve("run"))) {
      return files.anyMatch(file -> file.getFileName().toString().matches("step-\\d+\\.xhy"));
    }
  }

  @Test
  void iteratesOverItsEvents() {
    try (Job job = merge()) {
      refused(Code.INVALID_STATE, "", job::result);
      final List<String> events = new ArrayList<>();
      for (String event : job) {
        assertFalse(event.isEmpty());
        events.add(event);
      }
      assertTrue(job.isFinished());
      assertTrue(events.size() > 100 && events.stream().allMatch(event -> event.contains("\"kind\"")));
      assertTrue(job.result().contains("\"method\":\"slerp\""));
      assertThrows(NoSuchElementException.class, job::next);
    }
    try (Checkpoint merged = RUNTIME.checkpoint(temporary.resolve("merged.xhy"))) {
      merged.verify();
    }
  }

  @Test
  void streamsItsEventsAsTheWorkIsDone() {
    try (Job job = merge()) {
      assertEquals(3, job.events().limit(3).count());
      assertFalse(job.isFinished());
      final Iterator<String> rest = job.events().iterator();
      while (rest.hasNext()) assertTrue(rest.next().startsWith("{"));
      assertTrue(job.isFinished());
    }
  }

  @Test
  void runGivesTheOutcome() {
    final List<String> events = new ArrayList<>();
    try (Job job = merge()) {
      final String result = job.run(events::add);
      assertEquals(job.result(), result);
      assertTrue(events.size() > 100);
    }
  }

  @Test
  void aRecipeIsCheckedBeforeAnyWork() {
    refused(Code.INVALID_ARGUMENT, "colour", () -> RUNTIME.job("merge", Map.of("models", List.of(), "colour", 3)));
    refused(Code.INVALID_ARGUMENT, "recipe", () -> RUNTIME.job("merge", "{"));
    refused(Code.INVALID_ARGUMENT, "bake", () -> RUNTIME.job("bake", "{}"));
    refused(
        Code.NOT_FOUND, "/nowhere.xhy",
        () -> RUNTIME.job("merge", Map.of("models", List.of("/nowhere.xhy", Fixtures.A), "output", "/x.xhy")));
    assertThrows(IllegalArgumentException.class, () -> RUNTIME.job("merge", Map.of("models", new Object())));
    assertThrows(IllegalArgumentException.class, () -> RUNTIME.job("merge", Map.of("t", Double.NaN)));
  }

  @Test
  void cancelSavesAndTheSameRecipeGoesOn() throws Exception {
    try (Job job = distill(1000)) {
      for (int i = 0; i < 4; ++i) job.next();
      job.cancel();
      final XhybridException cancelled = refused(Code.CANCELLED, "after step", job::run);
      assertTrue(cancelled.getMessage().contains("of 1000"), cancelled.getMessage());
      assertTrue(somethingIsSaved());
    }
    try (Job job = distill(1000)) {
      final String first = job.next() + job.next();
      assertFalse(first.contains("\"step\":1,"), first);
    }
  }

  @Test
  void anInterruptedThreadStopsInOrder() throws Exception {
    try (Job job = distill(1000)) {
      for (int i = 0; i < 3; ++i) job.next();
      Thread.currentThread().interrupt();
      refused(Code.CANCELLED, "after step", job::run);
      assertTrue(Thread.interrupted());
      assertTrue(somethingIsSaved());
    }
  }

  @Test
  void runsElsewhere() {
    final Queue<String> threads = new ConcurrentLinkedQueue<>();
    try (Job job = merge()) {
      final String result = job.runAsync().thenApply(text -> text).join();
      assertTrue(result.contains("\"method\":\"slerp\""));
    }
    try (Job job =
        RUNTIME.job("merge", Map.of("models", List.of(Fixtures.A, Fixtures.B), "dry_run", true))) {
      final CompletableFuture<String> future =
          job.runAsync(event -> threads.add(Thread.currentThread().getName()), task -> new Thread(task, "mine").start());
      assertTrue(future.join().contains("\"dry_run\":true"));
      assertTrue(threads.contains("mine"));
    }
  }

  @Test
  void aFailureElsewhereIsTheCauseOfTheFuturesFailure() {
    try (Job job =
        RUNTIME.job("evaluate", Map.of("models", List.of("/nowhere.xhy"), "tasks", List.of(Fixtures.MATH), "limit", 1))) {
      final Throwable cause = assertThrows(CompletionException.class, job.runAsync()::join).getCause();
      assertEquals(Code.NOT_FOUND, assertInstanceOf(XhybridException.class, cause).code());
      refused(Code.INVALID_STATE, "ended with an error", job::next);
    }
  }

  @Test
  void cancellingTheFutureCancelsTheJob() throws Exception {
    final CountDownLatch begun = new CountDownLatch(4);
    try (Job job = distill(1_000_000)) {
      final CompletableFuture<String> future = job.runAsync(event -> begun.countDown(), task -> new Thread(task).start());
      begun.await();
      assertTrue(future.cancel(true));
      assertTrue(future.isCancelled());
      assertThrows(CancellationException.class, future::join);
      job.join();
      assertTrue(somethingIsSaved());
      assertFalse(job.isFinished());
      assertTrue(future.cancel(true));
    }
  }

  @Test
  void closingAJobThatRunsCancelsAndSaves() throws Exception {
    final CountDownLatch begun = new CountDownLatch(4);
    final Job job = distill(1_000_000);
    final CompletableFuture<String> future = job.runAsync(event -> begun.countDown(), task -> new Thread(task).start());
    begun.await();
    job.close();
    job.join();
    assertTrue(somethingIsSaved());
    final Throwable cause = assertThrows(CompletionException.class, future::join).getCause();
    assertEquals(Code.CANCELLED, assertInstanceOf(XhybridException.class, cause).code());
  }

  @Test
  void anExecutorThatRefusesLeavesTheJobAsItWas() throws Exception {
    try (Job job = merge()) {
      assertThrows(
          RejectedExecutionException.class,
          () ->
              job.runAsync(
                  event -> {},
                  task -> {
                    throw new RejectedExecutionException("full");
                  }));
      job.join();
      assertTrue(job.run().contains("slerp"));
    }
  }

  @Test
  void aClosedJobRefuses() {
    final Job job = merge();
    job.close();
    job.close();
    closed("job", job::next);
    closed("job", job::run);
    closed("job", job::runAsync);
    closed("job", job::result);
    closed("job", job::cancel);
    closed("job", () -> job.events().toList());
  }
}
