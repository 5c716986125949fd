package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.Job;
import org.xhybrid.Model;
import org.xhybrid.Runtime;

class ExitTest {
  @TempDir Path temporary;

  /** Ends while a job and three threads are inside native calls. */
  static final class Unfinished {
    private static void forever(Runnable work) {
      final Thread thread = new Thread(() -> { while (true) work.run(); });
      thread.setDaemon(true);
      thread.start();
    }

    public static void main(String[] arguments) throws Exception {
      final Runtime runtime = Runtime.builder().threads(2).log((level, origin, text) -> {}).open();
      final Model model = runtime.load(arguments[0]);
      final Job job =
          runtime.job(
              "distill",
              Map.of("teacher", arguments[0], "student", Map.of("window", 16), "context", 64, "batch", 2, "data",
                  List.of(arguments[1]), "output", arguments[2], "stages",
                  List.of(Map.of("stage", "align", "steps", 1_000_000))));
      final CountDownLatch begun = new CountDownLatch(13);
      for (int i = 0; i < 3; ++i) {
        forever(
            () -> {
              model.score(1, 35, 36, 37);
              begun.countDown();
            });
      }
      job.runAsync();
      begun.await();
      System.out.println("ends");
    }
  }

  @Test
  void endingTheProgramInTheMiddleOfWorkIsClean() throws Exception {
    for (int i = 0; i < 3; ++i) {
      assertEquals(
          "ends\n",
          Fixtures.runJava(
              Unfinished.class, List.of(), Map.of(), Fixtures.path("tiny"), Fixtures.path("data/mix.train.jsonl.gz"),
              temporary.resolve("run" + i).toString()));
    }
  }
}
