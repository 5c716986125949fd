package org.xhybrid;

/**
 * One token of a generation.
 *
 * @param id its number in the vocabulary
 * @param piece the text that became complete by it: whole characters, may be empty
 * @param finished whether it is the last: end token, stop text or "max_tokens"
 */
public record Token(int id, String piece, boolean finished) {}
