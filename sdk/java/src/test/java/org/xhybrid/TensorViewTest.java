package org.xhybrid;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.Field;
import org.junit.jupiter.api.Test;

class TensorViewTest {
  private static final long COUNT = 700_000_001L; // 2.8 GB of f32: its end lies beyond what one buffer reaches

  private static sun.misc.Unsafe unsafe() throws Exception {
    final Field field = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
    field.setAccessible(true);
    return (sun.misc.Unsafe) field.get(null);
  }

  @Test
  @SuppressWarnings("removal")
  void slicesReachBeyondTwoGibibytes() throws Exception {
    final sun.misc.Unsafe unsafe = unsafe();
    final long address = unsafe.allocateMemory(4 * COUNT); // no page is touched but those that are written
    unsafe.putFloat(address + 4 * (COUNT - 1), 35.5f);
    unsafe.putFloat(address + 4 * (COUNT - 3), -1.25f);
    final boolean[] freed = new boolean[1];
    final Handle memory = new Handle("checkpoint", address, a -> freed[0] = true, null);
    final TensorView tensor = new TensorView(memory, "large", new long[] {address, 2, 1, 1, COUNT, 0, 0, 0, 0});
    assertEquals(4 * COUNT, tensor.byteSize());
    assertEquals(35.5f, tensor.floats(COUNT - 3, 3).get(2));
    assertEquals(-1.25f, tensor.bytes(4 * (COUNT - 3), 12).getFloat(0));
    final float[] last = new float[1];
    tensor.read(COUNT - 1, last);
    assertEquals(35.5f, last[0]);
    for (org.junit.jupiter.api.function.Executable whole :
        new org.junit.jupiter.api.function.Executable[] {tensor::bytes, tensor::floats}) {
      final XhybridException refused = assertThrows(XhybridException.class, whole);
      assertEquals(XhybridException.Code.UNSUPPORTED, refused.code());
      assertTrue(refused.getMessage().contains("take slices"), refused.getMessage());
    }
    assertThrows(IndexOutOfBoundsException.class, () -> tensor.floats(COUNT - 2, 3));
    memory.run();
    for (int i = 0; i < 200 && !freed[0]; ++i) { // when the buffers are garbage
      System.gc();
      Thread.sleep(10);
    }
    assertTrue(freed[0]);
    unsafe.freeMemory(address);
  }
}
