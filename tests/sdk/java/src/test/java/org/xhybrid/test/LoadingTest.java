package org.xhybrid.test;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.module.ModuleFinder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.xhybrid.PluginInfo;
import org.xhybrid.Runtime;

class LoadingTest {
  @TempDir Path temporary;
  private Path own; // java.io.tmpdir of the virtual machines that are started

  @BeforeEach
  void makeTemporaryDirectory() throws Exception {
    own = Files.createDirectory(temporary.resolve("own"));
  }

  /** Opens a runtime and says where things are. */
  static final class Where {
    public static void main(String[] arguments) throws Exception {
      try (Runtime runtime = Runtime.open()) {
        for (PluginInfo plugin : runtime.plugins()) {
          if (plugin.kind() != PluginInfo.Kind.BACKEND) continue;
          final Path directory = Path.of(plugin.path()).getParent().getParent();
          System.out.println("library " + directory);
          System.out.println(
              "permissions " + PosixFilePermissions.toString(Files.getPosixFilePermissions(directory)));
          try (Stream<Path> files = Files.list(directory)) {
            System.out.println("files " + files.map(file -> file.getFileName().toString()).sorted().toList());
          }
        }
      } catch (UnsatisfiedLinkError | ExceptionInInitializerError problem) {
        System.out.println("refused " + problem.getMessage());
      }
    }
  }

  private String where(String property, Map<String, String> environment) throws Exception {
    final List<String> options =
        property == null
            ? List.of("-Djava.io.tmpdir=" + own)
            : List.of("-Djava.io.tmpdir=" + own, "-Dxhybrid.native.dir=" + property);
    return Fixtures.runJava(Where.class, options, environment);
  }

  private List<Path> leftBehind() throws Exception {
    try (Stream<Path> files = Files.list(own)) {
      return files.filter(file -> !file.getFileName().toString().startsWith("hsperfdata")).toList();
    }
  }

  private static Path jar() throws Exception {
    return Path.of(Runtime.class.getProtectionDomain().getCodeSource().getLocation().toURI());
  }

  @Test
  void testsRunOnTheInstalledJarInAnEmptyDirectory() throws Exception {
    assertTrue(jar().toString().endsWith(".jar"), jar().toString());
    try (Stream<Path> files = Files.list(Path.of(""))) {
      assertEquals(List.of(), files.toList());
    }
  }

  @Test
  void theJarIsAModuleByName() throws Exception {
    assertTrue(ModuleFinder.of(jar()).find("org.xhybrid").isPresent());
  }

  @Test
  void theJarsLibraryIsLaidOutPrivatelyWithRealNamesAndRemovedAtExit() throws Exception {
    final String said = where(null, Map.of());
    assertTrue(said.contains("library " + own), said);
    assertTrue(said.contains("permissions rwx------"), said);
    assertTrue(said.contains("files [libxhybrid.so.1, libxhybridjni.so, xhybrid]"), said);
    assertEquals(List.of(), leftBehind());
  }

  @Test
  void anInstalledLibraryIsTakenWhenTheEnvironmentNamesIt() throws Exception {
    final Path prebuilt = Fixtures.DIRECTORY.resolve("prebuilt").toRealPath();
    final String said = where(null, Map.of("XHYBRID_DIR", prebuilt.toString()));
    assertTrue(said.contains("library " + prebuilt), said);
  }

  @Test
  void thePropertyComesBeforeTheEnvironment() throws Exception {
    final Path library = Fixtures.DIRECTORY.resolve("prebuilt").toRealPath().resolve("lib");
    final String said = where(library.toString(), Map.of("XHYBRID_DIR", "/nowhere"));
    assertTrue(said.contains("library " + library), said);
  }

  @Test
  void aPlaceWithoutTheLibraryIsRefusedByName() throws Exception {
    assertTrue(where("/nowhere", Map.of()).contains("xhybrid.native.dir is \"/nowhere\""));
    assertTrue(where(null, Map.of("XHYBRID_DIR", "/nowhere")).contains("XHYBRID_DIR is \"/nowhere\""));
  }

  @Test
  void theLibraryIsTheReleaseOfTheJar() {
    assertEquals(Runtime.class.getPackage().getImplementationVersion(), Runtime.release());
    assertFalse(Runtime.release().isEmpty());
  }
}
