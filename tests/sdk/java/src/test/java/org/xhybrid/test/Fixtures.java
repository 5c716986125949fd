package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.function.Executable;
import org.xhybrid.Model;
import org.xhybrid.Runtime;
import org.xhybrid.XhybridException;

/** What run.sh made, opened once. */
final class Fixtures {
  static final Path DIRECTORY = Path.of(System.getProperty("fixtures"));
  static final String TEACHER = path("teacher.xhy");
  static final String A = path("a.xhy");
  static final String B = path("b.xhy");
  static final String TINY = path("tiny.xhy");
  static final String HUGGING_FACE = path("hf");
  static final String MATH = path("data/math.test.jsonl");

  // One thread: what is tested does not need two, and a busy machine runs it faster.
  static final Runtime RUNTIME = Runtime.builder().threads(1).open();
  static final Model MODEL = RUNTIME.load(A);
  static final Model TINY_MODEL = RUNTIME.load(TINY);

  private Fixtures() {}

  static String path(String name) {
    return DIRECTORY.resolve(name).toString();
  }

  /** The call is refused with this code, and the message says this. */
  static XhybridException refused(XhybridException.Code code, String part, Executable call) {
    final XhybridException refused = assertThrows(XhybridException.class, call);
    assertEquals(code, refused.code(), refused.getMessage());
    assertTrue(refused.getMessage().contains(part), refused.getMessage());
    assertTrue(!refused.origin().isEmpty());
    return refused;
  }

  static void closed(String name, Executable call) {
    assertEquals("the " + name + " is closed", assertThrows(IllegalStateException.class, call).getMessage());
  }

  static void copy(Path from, Path to) throws IOException {
    Files.createDirectories(to);
    try (Stream<Path> files = Files.list(from)) {
      for (Path file : files.toList()) Files.copy(file, to.resolve(file.getFileName()));
    }
  }

  /** What a class's main prints in a virtual machine of its own, which has to end well. */
  static String runJava(Class<?> program, List<String> options, Map<String, String> environment, String... arguments)
      throws Exception {
    final List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.addAll(options);
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), program.getName()));
    command.addAll(Arrays.asList(arguments));
    return run(command, environment);
  }

  static String run(List<String> command, Map<String, String> environment) throws Exception {
    final Path output = Files.createTempFile("output", ".txt");
    final ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(output.toFile());
    builder.environment().putAll(environment);
    final int status = builder.start().waitFor();
    final String text = Files.readString(output);
    Files.delete(output);
    assertEquals(0, status, () -> String.join(" ", command) + "\n" + text);
    return text;
  }

  static void remove(Path directory) {
    try (Stream<Path> inside = Files.walk(directory)) {
      for (Path path : inside.sorted(Comparator.reverseOrder()).toList()) Files.delete(path);
    } catch (IOException problem) {
      throw new UncheckedIOException(problem);
    }
  }
}
