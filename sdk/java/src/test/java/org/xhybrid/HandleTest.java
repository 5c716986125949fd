package org.xhybrid;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class HandleTest {
  private final List<Long> freed = new ArrayList<>();

  @Test
  void isFreedOnceWhenTheLastUserHasLeft() {
    final Handle handle = new Handle("model", 7, freed::add, null);
    assertEquals(7, handle.enter());
    assertEquals(7, handle.enter());
    handle.run();
    handle.run();
    assertEquals("the model is closed", assertThrows(IllegalStateException.class, handle::enter).getMessage());
    handle.leave();
    assertEquals(List.of(), freed);
    handle.leave();
    assertEquals(List.of(7L), freed);
  }

  @Test
  void keepsWhatItNeedsUntilItIsFreed() {
    final Handle log = new Handle("log", 1, freed::add, null);
    log.enter();
    final Handle runtime = new Handle("runtime", 2, freed::add, log);
    final Handle model = new Handle("model", 3, freed::add, runtime.needed());
    log.run();
    log.leave();
    runtime.run();
    assertEquals(List.of(2L), freed);
    model.run();
    assertEquals(List.of(2L, 3L, 1L), freed);
  }
}
