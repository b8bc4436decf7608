/* Parallel work. parallel.c is the only file that knows OpenMP.
 *
 * Work is cut into tasks by the shape of the problem alone, never by the number of threads, and tasks
 * never add to the same memory: so every result has the same bits at any number of threads.
 */
#ifndef PYCONV_PARALLEL_H
#define PYCONV_PARALLEL_H

#include <stddef.h>

typedef void parallel_task(const void *context, ptrdiff_t task, void *scratch);

/* Call run(context, t, scratch) for every t in [0, tasks), in any order and on several threads.
 * cost: what all tasks together take on one core, in nanoseconds, roughly; small work stays on the
 * calling thread. scratch: bytes of 64-byte aligned memory for each thread, not cleared between tasks.
 * Returns PYCONV_OK, or PYCONV_NO_MEMORY before any task has run. */
int parallel_run(ptrdiff_t tasks, double cost, size_t scratch, parallel_task *run, const void *context);

#endif
