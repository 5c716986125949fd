package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.MODEL;
import static org.xhybrid.test.Fixtures.TINY_MODEL;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.xhybrid.Options;
import org.xhybrid.Session;
import org.xhybrid.Token;
import org.xhybrid.XhybridException.Code;

class SessionTest {
  private static final int[] PROMPT = MODEL.encode("Once upon a time", true);
  private Session session;

  @BeforeEach
  void open() {
    session = MODEL.session(Options.of("capacity", 128));
  }

  @AfterEach
  void close() {
    session.close();
  }

  private static int largest(float[] values) {
    int best = 0;
    for (int i = 1; i < values.length; ++i) best = values[i] > values[best] ? i : best;
    return best;
  }

  @Test
  void feedingAdvancesThePosition() {
    assertEquals(0, session.position());
    session.feed(PROMPT);
    session.feed();
    assertEquals(PROMPT.length, session.position());
    assertTrue(session.stateBytes() > 0);
    session.reset();
    assertEquals(0, session.position());
  }

  @Test
  void greedyTakesTheLargestLogit() {
    session.feed(PROMPT);
    session.sampler(Options.of("max_tokens", 2));
    final int expected = largest(session.logits());
    final Token token = session.next();
    assertEquals(expected, token.id());
    assertFalse(token.finished());
    assertTrue(session.next().finished());
    refused(Code.INVALID_STATE, "", session::next);
  }

  @Test
  void tokensStreamAndGenerateAreTheSameText() {
    final Options options = Options.of("max_tokens", 12);
    session.feed(PROMPT);
    final byte[] read = session.snapshot();
    session.sampler(options);
    final String text = session.generate();
    session.restore(read);
    session.sampler(options);
    assertEquals(text, String.join("", session.stream().toList()));
    session.restore(read);
    session.sampler(options);
    final StringBuilder pieces = new StringBuilder();
    assertEquals(12, session.tokens().peek(token -> pieces.append(token.piece())).count());
    assertEquals(text, pieces.toString());
  }

  @Test
  void stopTextEndsGeneration() {
    session.feed(PROMPT);
    session.sampler(Options.of("max_tokens", 40));
    final byte[] read = session.snapshot();
    final String text = session.generate();
    final String stop = text.substring(6, 9);
    session.restore(read);
    session.sampler(Options.of("max_tokens", 40).set("stop", "never to be seen").set("stop", stop));
    assertEquals(text.substring(0, text.indexOf(stop)), session.generate());
  }

  @Test
  void aSnapshotAndAForkContinueAlike() {
    session.feed(PROMPT);
    session.sampler(Options.of("max_tokens", 8));
    final byte[] snapshot = session.snapshot();
    try (Session fork = session.fork();
        Session restored = MODEL.session(Options.of("capacity", 64))) {
      restored.restore(snapshot);
      restored.sampler(Options.of("max_tokens", 8));
      final String text = session.generate();
      assertEquals(text, fork.generate());
      assertEquals(text, restored.generate());
      assertArrayEquals(session.snapshot(), fork.snapshot());
    }
  }

  @Test
  void aSnapshotOfAnotherShapeIsRefused() {
    session.feed(PROMPT);
    final byte[] snapshot = session.snapshot();
    try (Session other = TINY_MODEL.session()) {
      refused(Code.INCOMPATIBLE, "", () -> other.restore(snapshot));
    }
    snapshot[snapshot.length - 1] ^= 1;
    refused(Code.CORRUPT, "", () -> session.restore(snapshot));
    refused(Code.CORRUPT, "", () -> session.restore(new byte[0]));
    refused(Code.INVALID_ARGUMENT, "NULL", () -> session.restore(null));
    assertEquals(PROMPT.length, session.position());
  }

  @Test
  void whatItCannotDoIsRefused() {
    refused(Code.INVALID_STATE, "", session::logits);
    refused(Code.INVALID_STATE, "", session::next);
    refused(Code.INVALID_ARGUMENT, "4096", () -> session.feed(1, 4096));
    refused(Code.INVALID_ARGUMENT, "128", () -> session.feed(new int[129]));
    refused(Code.INVALID_ARGUMENT, "top_p", () -> session.sampler(Options.of("top_p", 2.0)));
    refused(Code.INVALID_ARGUMENT, "capacity", () -> MODEL.session(Options.of("capacity", -1)));
    assertEquals(0, session.position());
  }

  @Test
  void anInterruptStopsBetweenTwoTokensAndTheSessionGoesOn() {
    session.feed(PROMPT);
    session.sampler(Options.of("max_tokens", 10));
    final List<Integer> ids = new ArrayList<>();
    refused(
        Code.CANCELLED, "between two tokens",
        () ->
            session.tokens().forEach(
                token -> {
                  ids.add(token.id());
                  if (ids.size() == 4) Thread.currentThread().interrupt();
                }));
    assertTrue(Thread.interrupted()); // it stayed set, and is taken back here
    assertEquals(4, ids.size());
    session.tokens().forEach(token -> ids.add(token.id()));
    assertEquals(10, ids.size());
    assertEquals(PROMPT.length + 10, session.position());
  }

  @Test
  void aClosedSessionRefuses() {
    session.feed(PROMPT);
    final byte[] snapshot = session.snapshot();
    session.close();
    session.close();
    closed("session", () -> session.feed(1));
    closed("session", session::logits);
    closed("session", session::next);
    closed("session", session::generate);
    closed("session", () -> session.stream().toList());
    closed("session", session::position);
    closed("session", session::stateBytes);
    closed("session", session::snapshot);
    closed("session", () -> session.restore(snapshot));
    closed("session", session::fork);
    closed("session", session::reset);
    closed("session", () -> session.sampler(null));
  }
}
