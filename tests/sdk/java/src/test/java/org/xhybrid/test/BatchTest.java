package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.MODEL;
import static org.xhybrid.test.Fixtures.TINY_MODEL;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.xhybrid.Batch;
import org.xhybrid.Options;
import org.xhybrid.Session;
import org.xhybrid.Token;
import org.xhybrid.XhybridException.Code;

class BatchTest {
  private static final Options ROOM = Options.of("capacity", 64);

  private static Session read(String prompt) {
    final Session session = MODEL.session(ROOM);
    session.feed(MODEL.encode(prompt, true));
    session.sampler(Options.of("max_tokens", 6));
    return session;
  }

  @Test
  void writesWhatItsSessionsWouldWrite() {
    try (Session story = read("Once upon a time"); Session sum = read("3 plus 4 is"); Batch batch = MODEL.batch(3, ROOM)) {
      batch.put(2, story);
      batch.put(0, sum);
      for (int i = 0; i < 6; ++i) {
        final List<Token> tokens = batch.next();
        final Token expected = story.next();
        assertEquals(3, tokens.size());
        assertEquals(expected, tokens.get(2));
        assertNull(tokens.get(1));
      }
      assertNull(batch.next().get(2)); // finished sequences leave their slots
      assertTrue(batch.stateBytes() > 0);
      assertEquals(3, batch.slots());
    }
  }

  @Test
  void manySlotsAreRead() {
    try (Session story = TINY_MODEL.session(ROOM); Batch batch = TINY_MODEL.batch(300, ROOM)) {
      story.feed(1, 35, 36);
      story.sampler(Options.of("max_tokens", 2));
      for (int slot = 0; slot < 300; ++slot) batch.put(slot, story);
      final Token expected = story.next();
      for (Token token : batch.next()) assertEquals(expected.id(), token.id());
    }
  }

  @Test
  void whatItCannotDoIsRefused() {
    try (Session unread = MODEL.session(ROOM); Session other = TINY_MODEL.session(); Batch batch = MODEL.batch(2, ROOM)) {
      refused(Code.INVALID_STATE, "has read no token", () -> batch.put(0, unread));
      unread.feed(1);
      refused(Code.INVALID_ARGUMENT, "", () -> batch.put(2, unread));
      refused(Code.INVALID_ARGUMENT, "", () -> batch.drop(-1));
      other.feed(1);
      refused(Code.INVALID_ARGUMENT, "", () -> batch.put(0, other));
      unread.close();
      closed("session", () -> batch.put(0, unread));
    }
    refused(Code.INVALID_ARGUMENT, "slots", () -> MODEL.batch(0, ROOM));
  }

  @Test
  void anInterruptStopsBetweenTwoTokens() {
    try (Session story = read("Once upon a time"); Batch batch = MODEL.batch(1, ROOM)) {
      batch.put(0, story);
      Thread.currentThread().interrupt();
      refused(Code.CANCELLED, "can go on", batch::next);
      assertTrue(Thread.interrupted());
      assertEquals(story.next(), batch.next().get(0));
    }
  }

  @Test
  void aClosedBatchRefuses() {
    try (Session story = read("Once upon a time")) {
      final Batch batch = MODEL.batch(1, ROOM);
      batch.close();
      closed("batch", batch::next);
      closed("batch", () -> batch.put(0, story));
      closed("batch", () -> batch.drop(0));
      closed("batch", batch::stateBytes);
    }
  }
}
