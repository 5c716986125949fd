package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.xhybrid.test.Fixtures.RUNTIME;
import static org.xhybrid.test.Fixtures.closed;
import static org.xhybrid.test.Fixtures.refused;

import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ReadOnlyBufferException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.Checkpoint;
import org.xhybrid.DType;
import org.xhybrid.Options;
import org.xhybrid.TensorView;
import org.xhybrid.XhybridException.Code;

class CheckpointTest {
  private static final String NORM = "model.norm.weight";
  private static final String EMBEDDINGS = "model.embed_tokens.weight";

  @TempDir Path temporary;
  private Checkpoint student; // f32
  private Checkpoint teacher; // bf16

  @BeforeEach
  void open() {
    student = RUNTIME.checkpoint(Fixtures.A);
    teacher = RUNTIME.checkpoint(Path.of(Fixtures.TEACHER));
  }

  @AfterEach
  void close() {
    student.close();
    teacher.close();
  }

  @Test
  void listsItsTensorsInOrder() {
    final List<String> names = student.tensorNames();
    assertEquals(names.stream().sorted().toList(), names);
    assertTrue(names.contains(NORM) && names.size() > 100, names.toString());
    assertTrue(student.describe().contains(NORM));
    student.verify();
  }

  @Test
  void viewsATensorWithoutACopy() {
    final TensorView norm = student.tensor(NORM);
    assertEquals(DType.F32, norm.dtype());
    assertArrayEquals(new long[] {192}, norm.shape());
    assertEquals(192, norm.count());
    assertEquals(768, norm.byteSize());
    final ByteBuffer bytes = norm.bytes();
    assertTrue(bytes.isDirect() && bytes.isReadOnly());
    assertEquals(ByteOrder.LITTLE_ENDIAN, bytes.order());
    assertThrows(ReadOnlyBufferException.class, () -> bytes.put(0, (byte) 1));
    final FloatBuffer floats = norm.floats();
    assertTrue(floats.isDirect() && floats.isReadOnly());
    assertEquals(192, floats.remaining());
    assertEquals(bytes.getFloat(4 * 17), floats.get(17));
  }

  @Test
  void slicesAreTheSameElements() {
    final TensorView embeddings = student.tensor(EMBEDDINGS);
    final FloatBuffer all = embeddings.floats();
    final FloatBuffer row = embeddings.floats(35 * 192, 192);
    for (int i = 0; i < 192; ++i) assertEquals(all.get(35 * 192 + i), row.get(i));
    assertThrows(IndexOutOfBoundsException.class, () -> embeddings.floats(embeddings.count() - 1, 2));
    assertThrows(IndexOutOfBoundsException.class, () -> embeddings.bytes(-1, 2));
  }

  @Test
  void widensBfloat16Exactly() {
    final TensorView norm = teacher.tensor(NORM);
    assertEquals(DType.BF16, norm.dtype());
    final float[] widened = new float[192];
    norm.read(0, widened);
    final float[] stored = new float[192]; // the student took them over as f32
    student.tensor(NORM).read(0, stored);
    assertArrayEquals(stored, widened);
  }

  @Test
  void anotherDTypeIsRefused() {
    refused(Code.INVALID_ARGUMENT, "has dtype bf16; allowed: f32", () -> teacher.tensor(NORM).floats());
    refused(
        Code.INVALID_ARGUMENT, "is bf16 [192]; allowed: f32 [192]", () -> teacher.tensor(NORM).expect(DType.F32, 192));
  }

  @Test
  void anotherShapeIsRefused() {
    final TensorView embeddings = student.tensor(EMBEDDINGS);
    assertSame(embeddings, embeddings.expect(DType.F32, -1, 192));
    refused(
        Code.INVALID_ARGUMENT, "is f32 [4096, 192]; allowed: f32 [192]", () -> embeddings.expect(DType.F32, 192));
  }

  @Test
  void aTensorThatIsNotThereIsRefused() {
    refused(Code.NOT_FOUND, "nothing", () -> student.tensor("nothing"));
  }

  @Test
  void aPathThatIsNotThereIsRefused() {
    refused(Code.NOT_FOUND, "/nowhere.xhy", () -> RUNTIME.checkpoint("/nowhere.xhy"));
    assertThrows(IllegalArgumentException.class, () -> RUNTIME.checkpoint(Fixtures.A + "\0hidden"));
    refused(Code.INVALID_ARGUMENT, "guess", () -> RUNTIME.checkpoint(Fixtures.A, Options.of("load_mode", "guess")));
  }

  @Test
  void aPathMayHoldAnyCharacter() throws Exception {
    final Path odd = temporary.resolve("schüler 🎓.xhy"); // beyond 16 bits: JNI's own strings would spoil it
    final Path copy = Path.of(temporary.toString(), "copy.xhy");
    Fixtures.copy(Path.of(Fixtures.TINY), copy);
    Fixtures.run(List.of("mv", copy.toString(), odd.toString()), java.util.Map.of());
    try (Checkpoint checkpoint = RUNTIME.checkpoint(odd.toString())) {
      checkpoint.verify();
    }
    Fixtures.run(List.of("rm", "-r", odd.toString()), java.util.Map.of());
  }

  @Test
  void aDamagedTensorIsRefusedByItsDigest() throws Exception {
    final Path damaged = temporary.resolve("damaged.xhy");
    Fixtures.copy(Path.of(Fixtures.TINY), damaged);
    try (RandomAccessFile shard = new RandomAccessFile(damaged.resolve("tensors-00000.bin").toFile(), "rw")) {
      shard.seek(0);
      final int first = shard.read();
      shard.seek(0);
      shard.write(first ^ 1);
    }
    try (Checkpoint checkpoint = RUNTIME.checkpoint(damaged)) {
      refused(Code.CORRUPT, "damaged.xhy", checkpoint::verify);
      refused(
          Code.CORRUPT, "damaged.xhy",
          () -> {
            for (String name : checkpoint.tensorNames()) checkpoint.tensor(name);
          });
    }
    assertTrue(Files.exists(damaged));
  }

  @Test
  void aClosedCheckpointRefusesAndItsBuffersStayReadable() {
    final TensorView norm = student.tensor(NORM);
    final FloatBuffer floats = norm.floats();
    final float first = floats.get(0);
    student.close();
    student.close();
    closed("checkpoint", student::tensorNames);
    closed("checkpoint", () -> student.tensor(NORM));
    closed("checkpoint", norm::bytes);
    closed("checkpoint", norm::floats);
    closed("checkpoint", student::verify);
    final FloatBuffer slice = floats.slice(100, 92);
    for (int i = 0; i < 20; ++i) System.gc();
    assertEquals(first, floats.get(0));
    assertTrue(Float.isFinite(slice.get(91)));
  }

  /** Lines of /proc/self/maps over this checkpoint's shard. */
  private static boolean isMapped(Path checkpoint) throws Exception {
    return Files.readAllLines(Path.of("/proc/self/maps")).stream().anyMatch(line -> line.contains(checkpoint.toString()));
  }

  @Test
  void memoryIsGivenBackWhenItIsClosedAndTheLastBufferIsGarbage() throws Exception {
    final Path copy = temporary.toRealPath().resolve("mapped.xhy");
    Fixtures.copy(Path.of(Fixtures.TINY), copy);
    final Checkpoint checkpoint = RUNTIME.checkpoint(copy);
    FloatBuffer row = checkpoint.tensor(EMBEDDINGS).floats().slice(0, 8);
    checkpoint.close();
    for (int i = 0; i < 5; ++i) System.gc();
    assertTrue(isMapped(copy));
    assertTrue(Float.isFinite(row.get(7)));
    row = null;
    for (int i = 0; i < 100 && isMapped(copy); ++i) {
      System.gc();
      Thread.sleep(20);
    }
    assertFalse(isMapped(copy));
  }

  @Test
  void aForgottenCheckpointIsFreedByTheGarbageCollector() throws Exception {
    final Path copy = temporary.toRealPath().resolve("forgotten.xhy");
    Fixtures.copy(Path.of(Fixtures.TINY), copy);
    assertTrue(RUNTIME.checkpoint(copy).tensorNames().size() > 5);
    for (int i = 0; i < 100 && isMapped(copy); ++i) {
      System.gc();
      Thread.sleep(20);
    }
    assertFalse(isMapped(copy));
  }
}
