package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TourTest {
  @TempDir Path temporary;

  private List<String> arguments(String output) {
    return List.of(
        Fixtures.TEACHER, Fixtures.A, Fixtures.B, Fixtures.MATH, temporary.resolve(output + ".xhy").toString());
  }

  @Test
  void printsWhatTheTourInCPrints() throws Exception {
    final Path program = Fixtures.DIRECTORY.resolve("tour");
    assumeTrue(Files.exists(program), "examples/tour/tour.c is not there");
    final List<String> c = new ArrayList<>(List.of(program.toString()));
    c.addAll(arguments("c"));
    assertEquals(Fixtures.run(c, Map.of()), java());
  }

  private String java() throws Exception {
    return Fixtures.runJava(Class.forName("Tour"), List.of(), Map.of(), arguments("java").toArray(new String[0]));
  }

  @Test
  void showsTensorAnswerEvaluationAndMerge() throws Exception {
    final String said = java();
    assertTrue(
        said.matches(
            "xhybrid [0-9.]+\ntensor model.norm.weight f32 \\[192] sum \\d+\\.\\d{6}\nprompt 1 [0-9 ]+\ntokens [0-9 ]+\n"
                + "text 35.*\naccuracy teacher math \\d\\.\\d{6}\naccuracy student math \\d\\.\\d{6}\n"
                + "alpha\\* \\d\\.\\d{6}\nmerged 104 tensors, norm sum \\d+\\.\\d{6}\n"),
        said);
  }
}
