package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.xhybrid.Model;
import org.xhybrid.Options;
import org.xhybrid.Runtime;
import org.xhybrid.Session;

class SpeedTest {
  /** Writes with one session, a few tokens in C and a few through the SDK in turn, and prints the processor time of both. */
  static final class Beside {
    private static final int FEW = 5;
    private static final ThreadMXBean CLOCK = ManagementFactory.getThreadMXBean();
    private static final StringBuilder TEXT = new StringBuilder();

    static native long write(long session, int count);

    private static long write(Session session) {
      final long begin = CLOCK.getCurrentThreadCpuTime();
      for (int i = 0; i < FEW; ++i) TEXT.append(session.next().piece());
      return CLOCK.getCurrentThreadCpuTime() - begin;
    }

    /** What the SDK keeps to itself: no user needs it. */
    private static long address(Session session) throws Exception {
      final Field field = Session.class.getSuperclass().getSuperclass().getDeclaredField("handle");
      field.setAccessible(true);
      final Object handle = field.get(session);
      final Method enter = handle.getClass().getDeclaredMethod("enter");
      enter.setAccessible(true);
      return (long) enter.invoke(handle);
    }

    /** 500 tokens in C and 500 through the SDK. */
    private static void round(Session session, long address, boolean print) {
      session.reset();
      session.feed(1, 5, 6); // what follows does not end within 1,000 tokens
      session.sampler(Options.of("max_tokens", 1001));
      TEXT.setLength(0);
      for (int i = 0; i < 500; i += FEW) {
        final boolean first = i % 2 == 0;
        final long before = first ? write(address, FEW) : 0;
        final long ours = write(session);
        final long theirs = first ? before : write(address, FEW);
        if (print) System.out.println(theirs + " " + ours);
      }
      if (session.position() != 1003) throw new IllegalStateException("position " + session.position());
    }

    public static void main(String[] arguments) throws Exception {
      try (Runtime runtime = Runtime.builder().threads(1).open();
          Model model = runtime.load(arguments[0]);
          Session session = model.session()) {
        System.load(System.getProperty("fixtures") + "/libbeside.so");
        final long address = address(session);
        round(session, address, false); // compiles what is called often
        for (int i = 0; i < Integer.parseInt(arguments[1]); ++i) round(session, address, true);
      }
    }
  }

  /** What few tokens cost when little else disturbs: other work on the machine makes some dearer, and none cheaper. */
  private static double undisturbed(List<long[]> times, int column) {
    final long[] sorted = times.stream().mapToLong(pair -> pair[column]).sorted().toArray();
    return sorted[sorted.length / 5];
  }

  @Test
  void aThousandTokensCostWhatTheyCostInC() throws Exception {
    final String rounds = System.getProperty("form").equals("long") ? "20" : "4";
    final String said =
        Fixtures.runJava(Beside.class, List.of("-Dfixtures=" + Fixtures.DIRECTORY), Map.of(), Fixtures.A, rounds);
    final List<long[]> times =
        said.lines().map(line -> Arrays.stream(line.split(" ")).mapToLong(Long::parseLong).toArray()).toList();
    final double c = undisturbed(times, 0), java = undisturbed(times, 1);
    System.out.printf(
        "1,000 tokens, %s rounds: C %.1f ms, Java %.1f ms, ratio %.4f%n", rounds, c / 5e3, java / 5e3, java / c);
    assertTrue(java / c < 1.02, java + " ns against " + c + " ns");
  }
}
