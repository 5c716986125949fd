package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.RUNTIME;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.Job;
import org.xhybrid.LogLevel;
import org.xhybrid.Model;
import org.xhybrid.PluginInfo;
import org.xhybrid.Runtime;
import org.xhybrid.XhybridException.Code;

class RuntimeTest {
  @TempDir Path temporary;

  private record Line(LogLevel level, String origin, String text, Thread thread) {}

  @Test
  void findsThePluginsOfTheJar() {
    final List<PluginInfo> plugins = RUNTIME.plugins();
    assertTrue(plugins.stream().anyMatch(p -> p.kind() == PluginInfo.Kind.BACKEND && p.name().equals("cpu")));
    assertTrue(plugins.stream().anyMatch(p -> p.kind() == PluginInfo.Kind.MERGE && p.name().equals("slerp")));
    assertTrue(plugins.stream().anyMatch(p -> p.kind() == PluginInfo.Kind.TEXT && p.name().equals("sentencepiece")));
    assertTrue(plugins.stream().allMatch(p -> p.license().equals("Apache-2.0") && !p.version().isEmpty()));
  }

  @Test
  void reportsWhatTheHostCanRun() {
    assertTrue(RUNTIME.report().contains("\"backend\":\"cpu\""));
  }

  @Test
  void describesEveryKindOfJob() {
    assertTrue(RUNTIME.jobSchema(null).contains("\"distill\""));
    assertTrue(RUNTIME.jobSchema("merge").contains("\"method\""));
    refused(Code.INVALID_ARGUMENT, "bake", () -> RUNTIME.jobSchema("bake"));
  }

  @Test
  void refusesADeviceThatIsNotThere() {
    refused(Code.NOT_FOUND, "abacus", () -> {
      try (Runtime runtime = Runtime.builder().device("abacus").open(); Model model = runtime.load(Fixtures.TINY)) {
        model.vocabSize();
      }
    });
  }

  @Test
  void aClosedRuntimeRefusesAndItsModelGoesOn() {
    final Runtime runtime = Runtime.builder().threads(1).open();
    try (Model model = runtime.load(Fixtures.TINY)) {
      runtime.close();
      runtime.close();
      closed("runtime", () -> runtime.load(Fixtures.TINY));
      closed("runtime", runtime::report);
      closed("runtime", runtime::plugins);
      closed("runtime", () -> runtime.job("merge", "{}"));
      assertEquals(4096, model.vocabSize());
    }
  }

  @Test
  void logsWhatPluginsItLoaded() {
    final Queue<Line> lines = new ConcurrentLinkedQueue<>();
    try (Runtime runtime = open(lines)) {
      assertTrue(
          lines.stream().anyMatch(
              line -> line.level() == LogLevel.DEBUG && line.origin().equals("core") && line.text().contains("backend cpu")));
      assertTrue(runtime.plugins().size() > 3);
    }
  }

  private static Runtime open(Queue<Line> lines) {
    return Runtime.builder()
        .threads(1)
        .pluginPath(Fixtures.path("plugins"))
        .log((level, origin, text) -> lines.add(new Line(level, origin, text, Thread.currentThread())))
        .open();
  }

  private Job shout(Runtime runtime) {
    return runtime.job(
        "merge",
        Map.of("models", List.of(Fixtures.A, Fixtures.B), "method", "shouting", "output",
            temporary.resolve("shouted.xhy"), "replace", true));
  }

  @Test
  void hearsNativeThreads() {
    final Queue<Line> lines = new ConcurrentLinkedQueue<>();
    try (Runtime runtime = open(lines); Job job = shout(runtime)) {
      job.run();
    }
    final List<Line> shouted = lines.stream().filter(line -> line.origin().equals("merge.shouting")).toList();
    assertTrue(shouted.stream().allMatch(line -> line.level() == LogLevel.WARNING));
    assertTrue(shouted.stream().anyMatch(line -> line.text().equals("model.norm.weight")));
    assertTrue(shouted.stream().map(Line::thread).distinct().count() > 100); // attached for a line each
  }

  @Test
  void aJobGoesOnWithALogWhenItsRuntimeIsClosedAndForgotten() {
    final Queue<Line> lines = new ConcurrentLinkedQueue<>();
    final Job job;
    try (Runtime runtime = open(lines)) {
      job = shout(runtime);
    }
    System.gc();
    try (job) {
      assertTrue(job.run().contains("shouting"));
    }
  }

  @Test
  void aLogThatThrowsStopsNothing() {
    try (Runtime runtime =
            Runtime.builder()
                .threads(1)
                .pluginPath(Fixtures.path("plugins"))
                .log(
                    (level, origin, text) -> {
                      throw new IllegalStateException("no");
                    })
                .open();
        Job job = shout(runtime)) {
      assertTrue(job.run().contains("shouting"));
    }
  }
}
