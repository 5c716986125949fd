package org.xhybrid;

import java.util.ArrayList;
import java.util.List;

/**
 * An open checkpoint directory, its files mapped. May be used from any thread. Buffers of its tensors stay readable after
 * it is closed: its memory is given back when it is closed and the last of them is garbage.
 */
public final class Checkpoint extends NativeObject {
  Checkpoint(long address) {
    super("checkpoint", address, Native::xh_checkpoint_free, null);
  }

  /**
   * The names of all tensors.
   *
   * @return in sorted order
   */
  public List<String> tensorNames() {
    final List<String> names = new ArrayList<>();
    call(
        address -> {
          final long count = Native.xh_checkpoint_tensor_count(address);
          for (long i = 0; i < count; ++i) names.add(Native.xh_checkpoint_tensor_name(address, i));
        });
    return names;
  }

  /**
   * One tensor, its digest checked. Nothing is copied.
   *
   * @param name one of {@link #tensorNames}
   * @return a view of this checkpoint
   * @throws XhybridException with {@code NOT_FOUND}; with {@code CORRUPT} when the digest is another
   */
  public TensorView tensor(String name) {
    final long[] fields = new long[3 + NativeConstants.XH_MAX_RANK];
    call(address -> Native.xh_checkpoint_tensor(address, name, fields));
    return new TensorView(handle, name, fields);
  }

  /**
   * Checks every digest and all padding: the whole of every file is read.
   *
   * @throws XhybridException with {@code CORRUPT}, naming file and tensor
   */
  public void verify() {
    call(Native::xh_checkpoint_verify);
  }

  /**
   * Configuration, mixers, history and tensor table.
   *
   * @return JSON
   */
  public String describe() {
    return text(Native::xh_checkpoint_describe);
  }
}
