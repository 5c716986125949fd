package org.xhybrid;

import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;

/** A loaded model. It does not change: may be used from any thread at once. */
public final class Model extends NativeObject {
  private final Map<String, Integer> widths = new ConcurrentHashMap<>(); // floats a token, by tap

  Model(long address, Handle needed) {
    super("model", address, Native::xh_model_free, needed);
    widths.put("logits", vocabSize());
  }

  /**
   * Loads a checkpoint or a Hugging Face directory.
   *
   * @param runtime whose device it is placed on; may be closed before the model
   * @param path where it is
   * @param options "dtype": "stored" (default), "f32" or "bf16"; null for none
   * @return the model, to be closed by the caller
   * @throws XhybridException with {@code NOT_FOUND}, {@code CORRUPT}, {@code INCOMPATIBLE} or {@code UNSUPPORTED}
   */
  public static Model load(Runtime runtime, Path path, Options options) {
    return runtime.load(path.toString(), options);
  }

  /**
   * Loads a Hugging Face directory: config.json, safetensors and the tokenizer's files.
   *
   * @param runtime whose device it is placed on; may be closed before the model
   * @param directory where config.json is
   * @param options as of {@link #load}
   * @return the model, to be closed by the caller
   * @throws XhybridException with {@code NOT_FOUND} where there is no config.json, else as {@link #load}
   */
  public static Model fromHuggingFace(Runtime runtime, Path directory, Options options) {
    if (!Files.exists(directory.resolve("config.json"))) {
      throw XhybridException.refused(
          XhybridException.Code.NOT_FOUND, directory + " has no config.json; allowed: a Hugging Face directory");
    }
    return load(runtime, directory, options);
  }

  /**
   * Configuration, mixers, parameter count, state bytes and history.
   *
   * @return JSON
   */
  public String describe() {
    return text(Native::xh_model_describe);
  }

  /**
   * How many tokens there are.
   *
   * @return ids are 0 to this - 1
   */
  public int vocabSize() {
    return (int) ask(Native::xh_model_vocab_size);
  }

  /**
   * Text to token ids.
   *
   * @param text any text
   * @param addSpecial whether to add what the tokenizer puts around a document, {@code <s>} for example
   * @return the ids
   */
  public int[] encode(String text, boolean addSpecial) {
    int[] ids = new int[text.length() + 8]; // a token is seldom shorter than a character
    final long[] count = new long[1];
    for (; ; ids = new int[(int) count[0]]) {
      final int[] room = ids;
      call(address -> Native.xh_model_encode(address, text, addSpecial ? 1 : 0, room, count));
      if (count[0] <= room.length) return Arrays.copyOf(room, (int) count[0]);
    }
  }

  /**
   * Token ids to text.
   *
   * @param ids of the vocabulary
   * @return the text
   */
  public String decode(int... ids) {
    return text((address, out) -> Native.xh_model_decode(address, ids, out));
  }

  /**
   * Messages rendered with the model's chat template.
   *
   * @param messages in order
   * @param addGenerationPrompt whether to end with what begins an answer
   * @return a prompt, for {@link #encode}
   */
  public String chat(List<Message> messages, boolean addGenerationPrompt) {
    final String json = Json.write(messages);
    return text((address, out) -> Native.xh_model_chat(address, json, addGenerationPrompt ? 1 : 0, out));
  }

  /**
   * Full forward of one sequence.
   *
   * @param ids [count]
   * @param tap "logits" [count, vocab], "hidden.N" [count, D] (0: embeddings; N: after block N),
   *     "layers.N.mixer.out" [count, heads * head_dim] or "layers.N.mixer.gate" [count, heads that mix]
   * @return the values, row-major
   */
  public float[] forward(int[] ids, String tap) {
    float[] values = new float[Math.multiplyExact(ids.length, widths.getOrDefault(tap, 0))];
    for (; ; ) {
      final long size = forwardInto(ids, tap, values);
      if (ids.length > 0) widths.put(tap, (int) (size / ids.length));
      if (size == values.length) return values;
      values = new float[Math.toIntExact(size)]; // the width of a tap is learnt by its first call
    }
  }

  /**
   * Full forward of one sequence into memory of the caller, without a copy.
   *
   * @param ids [count]
   * @param tap as of {@link #forward(int[], String)}
   * @param out direct, writable, in the order of this machine; its position advances by the values written
   * @throws XhybridException with {@code INVALID_ARGUMENT} for another buffer, or one with too little room, whose
   *     content is then undefined
   */
  public void forward(int[] ids, String tap, FloatBuffer out) {
    if (!out.isDirect() || out.isReadOnly() || out.order() != ByteOrder.nativeOrder()) {
      throw XhybridException.refused(
          XhybridException.Code.INVALID_ARGUMENT,
          "forward: the buffer is " + (out.isDirect() ? "" : "not direct, ") + (out.isReadOnly() ? "read-only, " : "")
              + out.order() + "; allowed: direct, writable, " + ByteOrder.nativeOrder());
    }
    final long size = forwardInto(ids, tap, out.slice());
    if (size > out.remaining()) {
      throw XhybridException.refused(
          XhybridException.Code.INVALID_ARGUMENT,
          "forward: the buffer has room for " + out.remaining() + " floats; \"" + tap + "\" has " + size);
    }
    out.position(out.position() + (int) size);
  }

  private long forwardInto(int[] ids, String tap, Object out) {
    final long[] size = new long[1];
    call(address -> Native.xh_model_forward(address, ids, tap, out, size));
    return size[0];
  }

  /**
   * How likely each token is after those before it.
   *
   * @param ids [count]
   * @return log p(ids[t] | ids[0..t-1]) for t = 1 to count - 1, [count - 1]
   */
  public float[] score(int... ids) {
    final float[] out = new float[Math.max(0, ids.length - 1)];
    call(address -> Native.xh_model_score(address, ids, out));
    return out;
  }

  /**
   * A sequence to read and write, as long as the model's context.
   *
   * @return the session, to be closed by the caller
   */
  public Session session() {
    return session(null);
  }

  /**
   * A sequence to read and write.
   *
   * @param options "capacity": int, most tokens; null for none
   * @return the session, to be closed by the caller
   */
  public Session session(Options options) {
    return new Session(
        made((address, out) -> Native.xh_session_open(address, Options.packed(options), out)), handle.needed());
  }

  /**
   * Room for sequences that are written together.
   *
   * @param slots 1 to 1,024
   * @param options "capacity": int, most tokens of each; null for none
   * @return the batch, to be closed by the caller
   */
  public Batch batch(int slots, Options options) {
    final Options all = (options == null ? new Options() : options.copy()).set("slots", slots);
    return new Batch(
        made((address, out) -> Native.xh_batch_open(address, Options.packed(all), out)), slots, handle.needed());
  }

  /**
   * Continues a text to the end.
   *
   * @param prompt a text, or what {@link #chat} gave
   * @param sampler as of {@link Session#sampler}; null for the defaults
   * @return what follows the prompt
   */
  public String generate(String prompt, Options sampler) {
    try (Session session = begin(prompt, sampler)) {
      return session.generate();
    }
  }

  /**
   * Continues a text, piece by piece as it is written. Lazy: reads the prompt at once and chooses a token when a piece is
   * asked for.
   *
   * @param prompt a text, or what {@link #chat} gave
   * @param sampler as of {@link Session#sampler}; null for the defaults
   * @return the pieces; closing the stream frees its session at once, the garbage collector some day
   */
  public Stream<String> stream(String prompt, Options sampler) {
    final Session session = begin(prompt, sampler);
    return session.stream().onClose(session::close);
  }

  private Session begin(String prompt, Options sampler) {
    final Session session = session();
    try {
      session.sampler(sampler);
      session.feed(encode(prompt, true));
      return session;
    } catch (RuntimeException | Error refused) {
      session.close();
      throw refused;
    }
  }
}
