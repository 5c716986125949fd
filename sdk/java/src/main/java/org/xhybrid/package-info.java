/**
 * libxhybrid for Java: hybrid xLSTM students of transformer LLMs, their checkpoints, generation and the jobs that make
 * them.
 *
 * <pre>{@code
 * try (Runtime runtime = Runtime.open(); Model model = runtime.load("student.xhy")) {
 *   String prompt = model.chat(List.of(new Message("user", "What is 7 times 5?")), true);
 *   try (Stream<String> pieces = model.stream(prompt, Options.of("max_tokens", 64))) {
 *     pieces.forEach(System.out::print);
 *   }
 * }
 * }</pre>
 *
 * <p><b>Errors.</b> What the library refuses is an {@link org.xhybrid.XhybridException} with code, message and origin. An
 * object that was closed answers every call with {@link IllegalStateException}.
 *
 * <p><b>Ownership.</b> Every object that is opened is {@link AutoCloseable}; one that is forgotten is freed when the
 * garbage collector finds it. An object keeps what it was opened from alive natively, so they may be closed in any order.
 * Closing while another thread is inside a call never crashes: memory is freed when the last call is over.
 *
 * <p><b>Threads.</b> {@link org.xhybrid.Runtime}, {@link org.xhybrid.Checkpoint} and {@link org.xhybrid.Model} may be used
 * from any thread at once. A {@link org.xhybrid.Session}, {@link org.xhybrid.Batch} or {@link org.xhybrid.Job} does one
 * call at a time: a second thread waits. {@link org.xhybrid.Job#cancel()} may be called at any time.
 *
 * <p><b>Interrupts.</b> A thread that is interrupted stops between two tokens or two pieces of a job with
 * {@link org.xhybrid.XhybridException.Code#CANCELLED}; its interrupt status stays set.
 */
package org.xhybrid;
