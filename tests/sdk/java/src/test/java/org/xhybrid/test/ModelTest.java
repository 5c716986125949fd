package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.MODEL;
import static org.xhybrid.test.Fixtures.RUNTIME;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.Message;
import org.xhybrid.Model;
import org.xhybrid.Options;
import org.xhybrid.Session;
import org.xhybrid.XhybridException;
import org.xhybrid.XhybridException.Code;

class ModelTest {
  private static final String QUESTION = "What is 7 times 5?";

  @TempDir Path temporary;

  private static String prompt() {
    return MODEL.chat(List.of(new Message("user", QUESTION)), true);
  }

  private static FloatBuffer direct(int floats) {
    return ByteBuffer.allocateDirect(4 * floats).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }

  @Test
  void encodesAndDecodesAnyText() {
    for (String text : new String[] {"Once upon a time", "", "Grüße 🎓 漢字", "a\0b"}) {
      assertEquals(text, MODEL.decode(MODEL.encode(text, false)).stripLeading(), text);
    }
    assertEquals(1, MODEL.encode("Hello", true)[0]);
  }

  @Test
  void encodesTextOfMoreTokensThanCharacters() {
    final String text = "🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓🎓"; // four bytes, each a token
    final int[] ids = MODEL.encode(text, false);
    assertTrue(ids.length > text.length() + 8, ids.length + " tokens");
    assertEquals(text, MODEL.decode(ids).strip());
  }

  @Test
  void rendersMessagesWithEveryCharacter() {
    final String content = "\"quoted\" \\ back\nline\ttab 🎓 \u0001";
    assertTrue(MODEL.chat(List.of(new Message("user", content)), false).contains(content));
    assertTrue(prompt().endsWith("assistant\n"), prompt());
  }

  @Test
  void describesItself() {
    assertEquals(4096, MODEL.vocabSize());
    assertTrue(MODEL.describe().contains("\"family\":\"llama\""));
  }

  @Test
  void scoresAreLogSoftmaxOfTheLogitsBefore() {
    final int[] ids = MODEL.encode("Once upon a time", true);
    final float[] logits = MODEL.forward(ids, "logits");
    final float[] scores = MODEL.score(ids);
    assertEquals(ids.length * 4096, logits.length);
    assertEquals(ids.length - 1, scores.length);
    for (int t = 1; t < ids.length; ++t) {
      final int row = (t - 1) * 4096;
      double sum = 0;
      for (int i = 0; i < 4096; ++i) sum += Math.exp(logits[row + i]);
      // Logits are within 50 of zero; floats of that size are 4e-6 apart.
      assertEquals(logits[row + ids[t]] - Math.log(sum), scores[t - 1], 1e-4);
    }
  }

  @Test
  void tapsHaveTheirWidths() {
    final int[] ids = {1, 35, 36};
    assertEquals(3 * 192, MODEL.forward(ids, "hidden.0").length);
    assertArrayEquals(MODEL.forward(ids, "hidden.0"), MODEL.forward(ids, "hidden.0")); // its width is known by now
    assertEquals(2 * 192, MODEL.forward(new int[] {1, 35}, "layers.1.mixer.out").length);
    assertEquals(3 * 3, MODEL.forward(ids, "layers.1.mixer.gate").length);
    refused(Code.INVALID_ARGUMENT, "nonsense", () -> MODEL.forward(ids, "nonsense"));
  }

  @Test
  void forwardWritesIntoADirectBuffer() {
    final int[] ids = {1, 35, 36};
    final FloatBuffer out = direct(3 * 192 + 10).position(4);
    MODEL.forward(ids, "hidden.6", out);
    assertEquals(4 + 3 * 192, out.position());
    final float[] written = new float[3 * 192];
    out.get(4, written);
    assertArrayEquals(MODEL.forward(ids, "hidden.6"), written);
    assertEquals(0, out.get(3));
    assertEquals(0, out.get(4 + 3 * 192));
  }

  @Test
  void aBufferOfAnotherShapeOrKindIsRefused() {
    final int[] ids = {1, 35, 36};
    refused(Code.INVALID_ARGUMENT, "room for 10 floats", () -> MODEL.forward(ids, "hidden.0", direct(10)));
    refused(Code.INVALID_ARGUMENT, "not direct", () -> MODEL.forward(ids, "hidden.0", FloatBuffer.allocate(3 * 192)));
    refused(
        Code.INVALID_ARGUMENT, "read-only",
        () -> MODEL.forward(ids, "hidden.0", direct(3 * 192).asReadOnlyBuffer()));
    refused(
        Code.INVALID_ARGUMENT, "BIG_ENDIAN",
        () -> MODEL.forward(ids, "hidden.0", ByteBuffer.allocateDirect(4 * 3 * 192).asFloatBuffer()));
  }

  @Test
  void idsOutOfTheVocabularyAreRefused() {
    refused(Code.INVALID_ARGUMENT, "4096", () -> MODEL.forward(new int[] {1, 4096}, "logits"));
    refused(Code.INVALID_ARGUMENT, "-1", () -> MODEL.score(1, -1));
    assertThrows(XhybridException.class, () -> MODEL.forward(new int[0], "logits"));
    assertThrows(XhybridException.class, () -> MODEL.score());
  }

  @Test
  void aStreamIsTheTextInPieces() {
    final Options greedy = Options.of("max_tokens", 24);
    final String text = MODEL.generate(prompt(), greedy);
    assertTrue(text.startsWith("35"), text);
    try (Stream<String> pieces = MODEL.stream(prompt(), greedy)) {
      assertEquals(text, String.join("", pieces.toList()));
    }
  }

  @Test
  void aStreamMayBeLeftEarly() {
    final String story = "Once upon a time";
    final String text = MODEL.generate(story, Options.of("max_tokens", 24));
    try (Stream<String> pieces = MODEL.stream(story, Options.of("max_tokens", 1_000_000))) {
      final List<String> first = pieces.limit(3).toList();
      assertEquals(3, first.size());
      assertTrue(text.startsWith(String.join("", first)), text + " / " + first);
    }
  }

  private static String sampled(long seed) {
    final Options options = Options.of("temperature", 1.5).set("top_k", 50).set("seed", seed).set("max_tokens", 16);
    return MODEL.generate("Once upon a time", options);
  }

  @Test
  void samplingDependsOnTheSeedAlone() {
    assertEquals(sampled(3), sampled(3));
    assertNotEquals(sampled(3), sampled(4));
  }

  @Test
  void loadsAHuggingFaceDirectory() {
    try (Model teacher = Model.fromHuggingFace(RUNTIME, Path.of(Fixtures.HUGGING_FACE), null);
        Model imported = Model.load(RUNTIME, Path.of(Fixtures.TEACHER), Options.of("dtype", "stored"))) {
      final int[] ids = teacher.encode(QUESTION, true);
      assertArrayEquals(imported.score(ids), teacher.score(ids));
    }
    refused(Code.NOT_FOUND, "config.json", () -> Model.fromHuggingFace(RUNTIME, temporary, null));
  }

  @Test
  void badPathsAndOptionsAreRefused() {
    refused(Code.NOT_FOUND, "/nowhere", () -> RUNTIME.load("/nowhere"));
    refused(Code.INVALID_ARGUMENT, "dtype", () -> RUNTIME.load(Fixtures.A, Options.of("dtype", "f8")));
    refused(Code.INVALID_ARGUMENT, "colour", () -> RUNTIME.load(Fixtures.A, Options.of("colour", true)));
    refused(Code.INVALID_ARGUMENT, "dtype", () -> RUNTIME.load(Fixtures.A, Options.of("dtype", 16)));
    assertThrows(NullPointerException.class, () -> RUNTIME.load((Path) null));
    refused(Code.INVALID_ARGUMENT, "NULL", () -> RUNTIME.load((String) null));
  }

  @Test
  void aClosedModelRefusesAndItsSessionGoesOn() {
    final Model model = RUNTIME.load(Fixtures.TINY);
    try (Session session = model.session()) {
      model.close();
      closed("model", model::session);
      closed("model", () -> model.batch(2, null));
      closed("model", () -> model.encode("text", true));
      closed("model", () -> model.decode(1));
      closed("model", () -> model.score(1, 2));
      closed("model", () -> model.forward(new int[] {1}, "logits"));
      closed("model", () -> model.generate("text", null));
      closed("model", model::describe);
      session.feed(1, 2, 3);
      assertEquals(3, session.position());
      assertEquals(4096, session.logits().length);
    }
  }
}
