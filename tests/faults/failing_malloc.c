#include "failing_malloc.h"

#include <errno.h>
#include <stddef.h>

/* The allocator that is being replaced. */
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* block, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* block);

#pragma GCC visibility push(default) /* shared libraries are to find them */
void* malloc(size_t size);
void* calloc(size_t count, size_t size);
void* realloc(void* block, size_t size);
void* memalign(size_t alignment, size_t size);
void* aligned_alloc(size_t alignment, size_t size);
int posix_memalign(void** out, size_t alignment, size_t size);
void free(void* block);
#pragma GCC visibility pop

struct plan {
  int64_t armed; /* counting */
  int64_t left;  /* until the one that fails */
  int64_t onwards, asked, failed;
};
static __thread struct plan own __attribute__((tls_model("initial-exec"))); /* no allocation on first use */
static struct plan any;
static int64_t held;

static void start(struct plan* plan, int64_t n, int onwards) {
  plan->left = n;
  plan->onwards = onwards;
  plan->asked = plan->failed = 0;
  __atomic_store_n(&plan->armed, 1, __ATOMIC_SEQ_CST);
}

/* Counts one allocation; whether it fails. */
static int follow(struct plan* plan) {
  int64_t left;
  if (!__atomic_load_n(&plan->armed, __ATOMIC_RELAXED)) return 0;
  __atomic_add_fetch(&plan->asked, 1, __ATOMIC_RELAXED);
  left = __atomic_sub_fetch(&plan->left, 1, __ATOMIC_RELAXED);
  if (left > 0 || (left < 0 && !plan->onwards)) return 0;
  __atomic_add_fetch(&plan->failed, 1, __ATOMIC_RELAXED);
  errno = ENOMEM;
  return 1;
}

static int refused(void) { return follow(&own) || follow(&any); }

static void* counted(void* block) {
  if (block != NULL) __atomic_add_fetch(&held, 1, __ATOMIC_RELAXED);
  return block;
}

void fail_allocation(int64_t n, int onwards) { start(&own, n, onwards); }
void fail_allocation_of_any_thread(int64_t n, int onwards) { start(&any, n, onwards); }
int64_t end_failures(void) {
  own.armed = 0;
  __atomic_store_n(&any.armed, 0, __ATOMIC_SEQ_CST);
  return own.failed + any.failed;
}
int64_t allocations_asked(void) { return own.asked + any.asked; }
int64_t blocks_held(void) { return __atomic_load_n(&held, __ATOMIC_RELAXED); }

void* malloc(size_t size) { return refused() ? NULL : counted(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return refused() ? NULL : counted(__libc_calloc(count, size)); }
void* memalign(size_t alignment, size_t size) { return refused() ? NULL : counted(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** out, size_t alignment, size_t size) {
  const int before = errno;
  void* block = memalign(alignment, size);
  errno = before;
  if (block == NULL) return ENOMEM;
  *out = block;
  return 0;
}

void* realloc(void* block, size_t size) {
  if (block == NULL) return malloc(size);
  if (size == 0) {
    free(block);
    return NULL;
  }
  return refused() ? NULL : __libc_realloc(block, size);
}

void free(void* block) {
  if (block != NULL) __atomic_sub_fetch(&held, 1, __ATOMIC_RELAXED);
  __libc_free(block);
}
