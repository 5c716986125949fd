package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DocsTest {
  @TempDir Path temporary;

  @Test
  void theFirstProgramOfThePageAnswers() throws Exception {
    final String page = Files.readString(Fixtures.DIRECTORY.resolve("docs/java.md"));
    final Matcher program = Pattern.compile("```java\n(.*?)```", Pattern.DOTALL).matcher(page);
    assertTrue(program.find());
    final Path file = Files.writeString(temporary.resolve("Ask.java"), program.group(1));
    final List<String> command =
        List.of(
            Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-cp",
            System.getProperty("java.class.path"), file.toString(), Fixtures.A, "What is 7 times 5?");
    assertEquals("35\n", Fixtures.run(command, Map.of()));
  }
}
