package org.xhybrid;

import java.util.Objects;

/**
 * One turn of a conversation.
 *
 * @param role "system", "user" or "assistant"
 * @param content what was said
 */
public record Message(String role, String content) {
  /**
   * Neither may be null.
   *
   * @param role "system", "user" or "assistant"
   * @param content what was said
   */
  public Message {
    Objects.requireNonNull(role, "role");
    Objects.requireNonNull(content, "content");
  }
}
