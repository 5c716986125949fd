package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.xhybrid.Checkpoint;
import org.xhybrid.Job;
import org.xhybrid.Model;
import org.xhybrid.Options;
import org.xhybrid.Runtime;
import org.xhybrid.Session;

class LeakTest {
  /** Cycles of load, generate and free in a virtual machine whose own memory is laid out before. */
  static final class Cycles {
    private static long residentKilobytes() throws Exception {
      for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
        if (line.startsWith("VmRSS:")) return Long.parseLong(line.replaceAll("\\D", ""));
      }
      throw new IllegalStateException("/proc/self/status has no VmRSS");
    }

    private static void cycle(Runtime runtime, String path) {
      try (Model model = runtime.load(path); Session session = model.session(Options.of("capacity", 64))) {
        session.feed(model.encode("Once upon a time", true));
        session.sampler(Options.of("max_tokens", 4));
        session.generate();
        session.fork().close();
        session.restore(session.snapshot());
        model.forward(new int[] {1, 2}, "logits");
      }
      try (Checkpoint checkpoint = runtime.checkpoint(path)) {
        checkpoint.tensor("model.norm.weight").floats().get(0);
      }
      try {
        runtime.load("/nowhere");
      } catch (RuntimeException refused) {
        // an error is freed too
      }
      try (Job job = runtime.job("merge", Map.of("models", List.of(path, path), "dry_run", true))) {
        job.next();
      }
    }

    public static void main(String[] arguments) throws Exception {
      final int cycles = Integer.parseInt(arguments[1]);
      try (Runtime runtime = Runtime.builder().threads(1).log((level, origin, text) -> {}).open()) {
        long first = 0;
        for (int i = 0; i <= cycles; ++i) {
          if (i % Math.max(1, cycles / 10) == 0) {
            System.gc();
            Thread.sleep(200); // the cleaner frees what was found
            System.out.println("cycle " + i + " resident " + residentKilobytes() + " kB");
          }
          if (i == cycles / 5) first = residentKilobytes(); // caches of both sides are full by then
          cycle(runtime, arguments[0]);
        }
        System.gc();
        System.out.println("growth " + (residentKilobytes() - first) + " kB");
      }
    }
  }

  @Test
  void cyclesOfLoadGenerateAndFreeHoldMemoryFlat() throws Exception {
    final boolean longForm = System.getProperty("form").equals("long");
    final int cycles = longForm ? 10_000 : 300;
    final String said =
        Fixtures.runJava(
            Cycles.class,
            // The heap is resident from the start, and compiled code and metadata are bounded.
            List.of("-Xms48m", "-Xmx48m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            Map.of(), Fixtures.TINY, String.valueOf(cycles));
    System.out.print(said);
    final long growth = Long.parseLong(said.replaceAll("(?s).*growth (-?\\d+) kB.*", "$1"));
    // The model alone is 600 kB: one object kept in fifty cycles would be several times this.
    assertTrue(growth < 4096, said);
  }
}
