// A tour of libxhybrid in Java: a checkpoint's tensor, a streamed answer, an evaluation against the teacher, a merge.
//
//   java -cp xhybrid.jar:gson.jar Tour.java TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED
//
// tour.c, tour.cc, tour.py and tour.rs are the same program and print the same bytes.
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.xhybrid.Checkpoint;
import org.xhybrid.Job;
import org.xhybrid.Message;
import org.xhybrid.Model;
import org.xhybrid.Options;
import org.xhybrid.Runtime;
import org.xhybrid.Session;
import org.xhybrid.TensorView;
import org.xhybrid.Token;
import org.xhybrid.XhybridException;

public final class Tour {
  private static final String TENSOR = "model.norm.weight";
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private Tour() {}

  // As C's "%.6f": the exact binary value, halves to even. Java's own format rounds the shortest decimal text.
  private static String fixed(double value) {
    final String text = new BigDecimal(value).setScale(6, RoundingMode.HALF_EVEN).toPlainString();
    return Math.copySign(1, value) < 0 && !text.startsWith("-") ? "-" + text : text;
  }

  // In double and in index order; f16 and bf16 are widened exactly.
  private static double sum(TensorView tensor) {
    final float[] values = new float[Math.toIntExact(tensor.count())];
    tensor.read(0, values);
    double sum = 0;
    for (float value : values) sum += value;
    return sum;
  }

  private static String joined(String separator, long[] numbers) {
    return Arrays.stream(numbers).mapToObj(Long::toString).collect(Collectors.joining(separator));
  }

  private static void showTensor(Runtime runtime, String path) {
    try (Checkpoint checkpoint = runtime.checkpoint(path)) {
      checkpoint.verify(); // every byte of every file
      final TensorView tensor = checkpoint.tensor(TENSOR); // a view of the mapped file
      OUT.println(
          "tensor " + TENSOR + " " + tensor.dtype() + " [" + joined(",", tensor.shape()) + "] sum " + fixed(sum(tensor)));
    }
  }

  private static void answer(Runtime runtime, String path) {
    try (Model model = runtime.load(path);
        Session session = model.session(Options.of("capacity", 512))) {
      final int[] prompt = model.encode(model.chat(List.of(new Message("user", "What is 7 times 5?")), true), true);
      OUT.println("prompt " + joined(" ", Arrays.stream(prompt).asLongStream().toArray()));
      session.feed(prompt);
      session.sampler(Options.of("temperature", 0.0).set("max_tokens", 48));
      final StringBuilder text = new StringBuilder();
      OUT.print("tokens");
      session.tokens().forEach(token -> show(token, text));
      OUT.println("\ntext " + text.toString().replace("\n", "\\n"));
    }
  }

  private static void show(Token token, StringBuilder text) {
    OUT.print(" " + token.id());
    OUT.flush();
    text.append(token.piece());
  }

  private static JsonObject run(Runtime runtime, String kind, Map<String, ?> recipe) {
    try (Job job = runtime.job(kind, recipe)) {
      return JsonParser.parseString(job.run()).getAsJsonObject();
    }
  }

  private static void evaluate(Runtime runtime, String teacher, String path, String task) {
    final JsonObject result =
        run(runtime, "evaluate",
            Map.of("models", List.of(teacher, path), "names", List.of("teacher", "student"), "tasks", List.of(task),
                "limit", 16));
    for (JsonElement model : result.getAsJsonArray("models")) {
      for (JsonElement row : model.getAsJsonObject().getAsJsonArray("tasks")) {
        OUT.println(
            "accuracy " + model.getAsJsonObject().get("name").getAsString() + " "
                + row.getAsJsonObject().get("task").getAsString() + " "
                + fixed(row.getAsJsonObject().get("accuracy").getAsDouble()));
      }
    }
    // The smallest share of the teacher's accuracy to be given up for the student to win or tie on half of the tasks.
    final JsonObject student = result.getAsJsonArray("models").get(1).getAsJsonObject();
    OUT.println("alpha* " + fixed(student.get("alpha_star").getAsDouble()));
  }

  private static void merge(Runtime runtime, String a, String b, String output) {
    run(runtime, "merge",
        Map.of("models", List.of(a, b), "method", "slerp", "options", Map.of("t", 0.5), "output", output, "replace", true));
    try (Checkpoint merged = runtime.checkpoint(output)) {
      OUT.println(
          "merged " + merged.tensorNames().size() + " tensors, norm sum " + fixed(sum(merged.tensor(TENSOR))));
    }
  }

  public static void main(String[] arguments) {
    if (arguments.length != 5) {
      System.err.println("usage: tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED");
      System.exit(2);
    }
    OUT.println("xhybrid " + Runtime.release());
    try (Runtime runtime = Runtime.open()) {
      showTensor(runtime, arguments[1]);
      answer(runtime, arguments[1]);
      evaluate(runtime, arguments[0], arguments[1], arguments[3]);
      merge(runtime, arguments[1], arguments[2], arguments[4]);
    } catch (XhybridException refused) {
      System.err.println(refused.origin() + ": " + refused.getMessage());
      System.exit(1);
    }
  }
}
