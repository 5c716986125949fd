package org.xhybrid;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Where everything begins: the plugins that were found and the device they run on. May be used from any thread. Models,
 * sessions and jobs opened from it keep what they need alive, the log too, when it is closed.
 */
public final class Runtime extends NativeObject {
  private Runtime(long address, Handle log) {
    super("runtime", address, Native::xh_runtime_close, log);
  }

  /** What a runtime is opened with. */
  public static final class Builder {
    private String pluginPath;
    private final Options options = new Options();
    private Log log;

    private Builder() {}

    /**
     * Plugins that are searched first.
     *
     * @param path directories or .so files, separated by ':'
     * @return this
     */
    public Builder pluginPath(String path) {
      pluginPath = path;
      return this;
    }

    /**
     * The backend to run on. Default: the best that is found.
     *
     * @param name "cpu", for example
     * @return this
     */
    public Builder device(String name) {
      options.set("device", name);
      return this;
    }

    /**
     * How many threads compute.
     *
     * @param count 0, the default: one a core
     * @return this
     */
    public Builder threads(int count) {
      options.set("threads", count);
      return this;
    }

    /**
     * Where the library's log goes. Default: nowhere.
     *
     * @param log called from any thread
     * @return this
     */
    public Builder log(Log log) {
      this.log = log;
      return this;
    }

    /**
     * Opens the runtime and loads every plugin. A plugin that fails to load is skipped and told of in
     * {@link Runtime#report()}.
     *
     * @return the runtime, to be closed by the caller
     * @throws XhybridException with {@code NOT_FOUND} for a device that is not there
     */
    public Runtime open() {
      final long[] out = new long[1];
      if (log == null) {
        Native.java_runtime_open(pluginPath, Options.packed(options), 0, out);
        return new Runtime(out[0], null);
      }
      final long address = Native.java_log_new(new LogListener(log));
      if (address == 0) throw new OutOfMemoryError("no native memory for a log");
      final Handle listener = new Handle("log", address, Native::java_log_free, null);
      try {
        Native.java_runtime_open(pluginPath, Options.packed(options), listener.enter(), out);
        return new Runtime(out[0], listener);
      } finally {
        listener.run(); // from now on it lives as long as what was opened
        listener.leave();
      }
    }
  }

  /**
   * A runtime with other than the defaults.
   *
   * @return a builder
   */
  public static Builder builder() {
    return new Builder();
  }

  /**
   * A runtime on the best device with the plugins beside the library.
   *
   * @return the runtime, to be closed by the caller
   */
  public static Runtime open() {
    return builder().open();
  }

  /**
   * The library's release.
   *
   * @return "0.1.0", for example
   */
  public static String release() {
    return Native.xh_release();
  }

  /**
   * The plugins that were loaded.
   *
   * @return in the order they were found
   */
  public List<PluginInfo> plugins() {
    final List<PluginInfo> plugins = new ArrayList<>();
    final long count = ask(Native::xh_runtime_plugin_count);
    for (long i = 0; i < count; ++i) {
      final long index = i;
      final byte[][] fields = new byte[7][];
      call(address -> Native.xh_runtime_plugin_at(address, index, fields));
      plugins.add(PluginInfo.of(fields));
    }
    return plugins;
  }

  /**
   * What this host can run and why not: cpu, devices, plugins, searched paths, load failures.
   *
   * @return JSON
   */
  public String report() {
    return text(Native::xh_runtime_report);
  }

  /**
   * Opens a checkpoint and checks its manifest and file sizes; a tensor's digest is checked on its first use. Its files
   * are mapped, not copied.
   *
   * @param path a {@code .xhy} directory
   * @return the checkpoint, to be closed by the caller
   * @throws XhybridException with {@code NOT_FOUND}, {@code CORRUPT} or {@code INCOMPATIBLE}
   */
  public Checkpoint checkpoint(String path) {
    return checkpoint(path, null);
  }

  /**
   * Opens a checkpoint.
   *
   * @param path a {@code .xhy} directory
   * @param options "load_mode": "map" (default) or "copy", for storage that others may truncate; null for none
   * @return the checkpoint, to be closed by the caller
   */
  public Checkpoint checkpoint(String path, Options options) {
    return new Checkpoint(
        made((address, out) -> Native.xh_checkpoint_open(address, path, Options.packed(options), out)));
  }

  /**
   * Opens a checkpoint.
   *
   * @param path a {@code .xhy} directory
   * @return the checkpoint, to be closed by the caller
   */
  public Checkpoint checkpoint(Path path) {
    return checkpoint(path.toString());
  }

  /**
   * Loads a model and places it on the device.
   *
   * @param path a checkpoint or a Hugging Face directory
   * @return the model, to be closed by the caller
   * @throws XhybridException with {@code NOT_FOUND}, {@code CORRUPT}, {@code INCOMPATIBLE} or {@code UNSUPPORTED}
   */
  public Model load(String path) {
    return load(path, null);
  }

  /**
   * Loads a model and places it on the device.
   *
   * @param path a checkpoint or a Hugging Face directory
   * @param options "dtype": "stored" (default), "f32" or "bf16"; null for none
   * @return the model, to be closed by the caller
   */
  public Model load(String path, Options options) {
    final long address = handle.enter();
    try {
      final long[] out = new long[1];
      Native.xh_model_load(address, path, Options.packed(options), out);
      return new Model(out[0], handle.needed());
    } finally {
      handle.leave();
    }
  }

  /**
   * Loads a model and places it on the device.
   *
   * @param path a checkpoint or a Hugging Face directory
   * @return the model, to be closed by the caller
   */
  public Model load(Path path) {
    return load(path.toString());
  }

  /**
   * Long work that the caller pulls along.
   *
   * @param kind "import", "export", "tokenize", "plan", "distill", "probe", "merge", "evaluate" or "bench"
   * @param recipeJson its options as JSON; {@link #jobSchema} lists them
   * @return the job, to be closed by the caller
   * @throws XhybridException with {@code INVALID_ARGUMENT} for what the recipe may not hold
   */
  public Job job(String kind, String recipeJson) {
    final long address = handle.enter();
    try {
      final long[] out = new long[1];
      Native.xh_job_open(address, kind, recipeJson, out);
      return new Job(kind, out[0], handle.needed());
    } finally {
      handle.leave();
    }
  }

  /**
   * Long work that the caller pulls along, such as
   * {@code job("merge", Map.of("models", List.of(a, b), "method", "slerp", "output", "merged.xhy"))}.
   *
   * @param kind as of {@link #job(String, String)}
   * @param recipe texts, paths, numbers, truth values, null, lists and maps of them
   * @return the job, to be closed by the caller
   */
  public Job job(String kind, Map<String, ?> recipe) {
    return job(kind, Json.write(recipe));
  }

  /**
   * The options of a kind of job with types, defaults and help.
   *
   * @param kind null lists the kinds
   * @return JSON
   */
  public String jobSchema(String kind) {
    return text((address, out) -> Native.xh_job_schema(address, kind, out));
  }
}
