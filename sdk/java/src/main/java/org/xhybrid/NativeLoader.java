package org.xhybrid;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/**
 * Finds and loads the native libraries, once a process. In order:
 *
 * <ol>
 *   <li>system property {@code xhybrid.native.dir}: a directory with libxhybrid.so.1, and libxhybridjni.so or not
 *   <li>environment {@code XHYBRID_DIR}: where libxhybrid is installed; the library is in lib, lib64 or
 *       lib/x86_64-linux-gnu
 *   <li>the jar: its native directory is laid out in a private temporary directory that is removed at exit. The library
 *       looks for its plugins beside itself, so files keep their real names.
 * </ol>
 */
final class NativeLoader {
  static final String PROPERTY = "xhybrid.native.dir";
  static final String ENVIRONMENT = "XHYBRID_DIR";
  private static final String LIBRARY = "libxhybrid.so.1";
  private static final String JNI = "libxhybridjni.so";
  private static final String[] LIBRARY_DIRECTORIES = {"lib", "lib64", "lib/x86_64-linux-gnu"};

  private NativeLoader() {}

  /** Called once, when the native methods' class is initialised. */
  static void load() {
    final Path directory = chosen(System.getProperty(PROPERTY), System.getenv(ENVIRONMENT));
    if (directory == null) {
      loadFile(extract(files()).resolve(JNI));
      return;
    }
    if (Files.exists(directory.resolve(JNI))) {
      loadFile(directory.resolve(JNI));
      return;
    }
    loadFile(directory.resolve(LIBRARY)); // by its soname it is the one that the JNI library then finds
    loadFile(extract(List.of(JNI)).resolve(JNI));
  }

  /** The directory that was asked for; null when the jar's own is to be used. */
  static Path chosen(String property, String environment) {
    if (property != null && !property.isEmpty()) {
      final Path directory = Path.of(property);
      if (Files.exists(directory.resolve(LIBRARY))) return directory;
      throw new UnsatisfiedLinkError(PROPERTY + " is \"" + property + "\": there is no " + LIBRARY + " in it");
    }
    if (environment == null || environment.isEmpty()) return null;
    for (String place : LIBRARY_DIRECTORIES) {
      final Path directory = Path.of(environment, place);
      if (Files.exists(directory.resolve(LIBRARY))) return directory;
    }
    throw new UnsatisfiedLinkError(
        ENVIRONMENT + " is \"" + environment + "\": there is no " + LIBRARY + " in its "
            + String.join(", ", LIBRARY_DIRECTORIES));
  }

  private static void loadFile(Path file) {
    System.load(file.toAbsolutePath().toString());
  }

  private static String platform() {
    final String os = System.getProperty("os.name"), machine = System.getProperty("os.arch");
    if (os.equals("Linux") && (machine.equals("amd64") || machine.equals("x86_64"))) return "linux-x86_64";
    throw new UnsatisfiedLinkError("no native library for " + os + " on " + machine + "; there is one for Linux on amd64");
  }

  private static InputStream resource(String name) throws IOException {
    final String path = "/native/" + platform() + "/" + name;
    final InputStream stream = NativeLoader.class.getResourceAsStream(path);
    if (stream == null) throw new IOException("the jar has no " + path);
    return stream;
  }

  /** What the jar's native directory holds. */
  private static List<String> files() {
    try (BufferedReader reader =
        new BufferedReader(new InputStreamReader(resource("files.txt"), StandardCharsets.UTF_8))) {
      final List<String> files = new ArrayList<>();
      for (String line = reader.readLine(); line != null; line = reader.readLine()) files.add(line);
      return files;
    } catch (IOException problem) {
      throw unsatisfied("the jar cannot be read", problem);
    }
  }

  private static UnsatisfiedLinkError unsatisfied(String what, IOException problem) {
    final UnsatisfiedLinkError error = new UnsatisfiedLinkError(what + ": " + problem);
    error.initCause(problem);
    return error;
  }

  private static Path extract(List<String> files) {
    try {
      final Path directory =
          Files.createTempDirectory(
              "xhybrid", PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
      // Plugins are loaded when a runtime is opened, so the files stay until the end.
      java.lang.Runtime.getRuntime().addShutdownHook(new Thread(() -> remove(directory)));
      for (String file : files) {
        final Path target = directory.resolve(file);
        Files.createDirectories(target.getParent());
        try (InputStream stream = resource(file)) {
          Files.copy(stream, target);
        }
      }
      return directory;
    } catch (IOException problem) {
      throw unsatisfied(
          "the native libraries cannot be laid out in " + System.getProperty("java.io.tmpdir") + " (" + PROPERTY
              + " may name a directory that has them)",
          problem);
    }
  }

  private static void remove(Path directory) {
    try (Stream<Path> inside = Files.walk(directory)) {
      for (Path path : inside.sorted(Comparator.reverseOrder()).toList()) Files.deleteIfExists(path);
    } catch (IOException problem) {
      // At exit there is nobody to tell.
    }
  }
}
