/* malloc and its relatives of this program, made to fail on the thread that asks for it. The linker lets a program's
 * own malloc serve every shared library too. */
#ifndef XHYBRID_TESTS_FAULTS_FAILING_MALLOC_H_
#define XHYBRID_TESTS_FAULTS_FAILING_MALLOC_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which allocations fail from here on: the n-th of this thread (1: the next), and with `onwards` all after it. */
void fail_allocation(int64_t n, int onwards);
/* As above, counted over every thread of the process. */
void fail_allocation_of_any_thread(int64_t n, int onwards);
/* No more failures; how many allocations failed. */
int64_t end_failures(void);
/* Allocations asked for since the last fail_allocation, those that failed too. */
int64_t allocations_asked(void);
/* Blocks that this program holds. */
int64_t blocks_held(void);

#ifdef __cplusplus
}
#endif

#endif /* XHYBRID_TESTS_FAULTS_FAILING_MALLOC_H_ */
